"""int4: symmetric, groups of 32 inputs, one float16 scale each. Embedding and head stay int8.

The scale of a group decides its error, and ``max|w| / 7`` is not the best one. Several scales are tried that put the
group's extreme weight near -8, the end that has one step more; the best is moved to the least-squares optimum for the
integers it gave, and kept there if that is better. docs/quantization.md says what each step gains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import ConfigurationError, ModelError
from engine.layers.base import MatrixKind
from engine.quantization.int8 import QUANTIZATION as INT8
from engine.threads import PIECE, in_threads
from kernels.ops.linear import GROUP, Int4Weight, Int8Weight, WeightFormat

SMALLEST, LARGEST = -8, 7
TRIED = (-7.75, -8.25, -7.25, -8.75)
"""What the group's extreme weight is divided by for a scale."""


class Int4:
    name = "int4"

    def weight_format(self, kind: MatrixKind) -> WeightFormat:
        return "int8" if kind == "head" else "int4"

    def quantize(self, weight: Tensor, kind: MatrixKind) -> Int4Weight | Int8Weight:
        if kind == "head":
            return INT8.quantize(weight, kind)
        rows, columns = weight.shape
        if columns % GROUP:
            raise ConfigurationError(
                f"int4 shares a scale among {GROUP} inputs, and {columns} inputs are no multiple of that; "
                "take --quantization int8"
            )
        values = torch.empty(rows, columns, dtype=torch.int8)
        scales = torch.empty(rows, columns // GROUP, dtype=torch.float16)
        count = max(1, PIECE // columns)

        def piece(start: int) -> None:
            part = slice(start, start + count)
            found, scale = _quantize(weight[part].float().view(-1, GROUP).T.contiguous())
            values[part].view(-1, GROUP).copy_(found.T)
            scales[part].view(-1).copy_(scale)

        in_threads(piece, range(0, rows, count))
        if not scales.isfinite().all():
            row = int(scales.isfinite().all(1).int().argmin())
            raise ModelError(f"row {row} holds a value that is not finite or too large for a scale in float16")
        return Int4Weight(values, scales)


_Fit = tuple[Tensor, Tensor, Tensor]
"""Values [32, n], scales [n] and squared errors [n] of n groups, all float32; scales rounded to float16."""


def _quantize(groups: Tensor) -> tuple[Tensor, Tensor]:
    """[32, n] float32, a group a column → values [32, n] and scales [n]."""
    greatest, least = groups.amax(0), groups.amin(0)
    extreme = torch.where(greatest > -least, greatest, least)
    best = _with_scales(groups, extreme / TRIED[0])
    for divisor in TRIED[1:]:
        best = _better(best, _with_scales(groups, extreme / divisor))
    values, scales, _ = best
    squares = values.square().sum(0)
    optimum = torch.where(squares > 0, (groups * values).sum(0) / squares, scales)
    values, scales, _ = _better(best, _with_scales(groups, optimum))
    return values, scales


def _with_scales(groups: Tensor, scales: Tensor) -> _Fit:
    """The values nearest to the groups under these scales, once they are rounded to what is stored."""
    stored = scales.half().float()
    divisors = torch.where(stored == 0, torch.inf, stored)
    values = (groups / divisors).round_().clamp_(SMALLEST, LARGEST)
    return values, stored, torch.addcmul(groups, values, stored, value=-1).square_().sum(0)


def _better(first: _Fit, second: _Fit) -> _Fit:
    """Group by group the fit of the smaller error, the first of equals."""
    chosen = second[2] < first[2]
    values, scales, errors = (torch.where(chosen, new, old) for old, new in zip(first, second, strict=True))
    return values, scales, errors


QUANTIZATION = Int4()
