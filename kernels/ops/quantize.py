"""Weight-only quantization of a matrix, to the forms that ``linear`` multiplies by.

int8: symmetric, ``scale = max|w| / 127`` for each row; a weight becomes the nearest multiple, ties the even one.

int4: symmetric, one float16 scale for each group of inputs. The scale of a group decides its error, and
``max|w| / 7`` is not the best one. Several scales are tried that put the group's extreme weight near -8, the end that
has one step more; the best is moved to the least-squares optimum for the integers it gave, and kept there if that is
better. docs/quantization.md says what each step gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from kernels.ops.linear import GROUP, Int4Weight, Int8Weight
from kernels.registry import Example, Op, Tolerance

QuantizedFormat: TypeAlias = Literal["int8", "int4"]

LARGEST_INT8 = 127
SMALLEST_INT4, LARGEST_INT4 = -8, 7
TRIED = (-7.75, -8.25, -7.25, -8.75)
"""What a group's extreme weight is divided by for a scale. Repeated in native/quantize.c."""
SLAB = 1 << 18
"""Weights that the reference works on at once."""


class Quantize(Protocol):
    def __call__(self, weight: Tensor, form: QuantizedFormat) -> Int8Weight | Int4Weight:
        """``weight`` [N, K], contiguous; for int4 K is a multiple of GROUP.

        Where a weight is not finite, or a scale too large for float16, the scale concerned is not finite.
        """
        ...


@dataclass(frozen=True)
class QuantizeSpec:
    dtype: torch.dtype
    """Of the weight."""


def quantize(weight: Tensor, form: QuantizedFormat) -> Int8Weight | Int4Weight:
    rows, columns = weight.shape
    slab = max(1, SLAB // columns)
    values = torch.empty(rows, columns, dtype=torch.int8, device=weight.device)
    if form == "int8":
        scales = torch.empty(rows, device=weight.device)
        for start in range(0, rows, slab):
            part = slice(start, start + slab)
            values[part], scales[part] = _int8(weight[part].float())
        return Int8Weight(values, scales)
    scales = torch.empty(rows, columns // GROUP, dtype=torch.float16, device=weight.device)
    for start in range(0, rows, slab):
        part = slice(start, start + slab)
        # A group to a column: so torch reduces and broadcasts over long rows.
        found, scale = _int4(weight[part].float().view(-1, GROUP).T.contiguous())
        values[part], scales[part] = found.T.reshape(-1, columns), scale.view(-1, columns // GROUP)
    return Int4Weight(values, scales)


def _int8(wide: Tensor) -> tuple[Tensor, Tensor]:
    """[n, K] float32 → values [n, K] and scales [n]."""
    scales = wide.abs().amax(1) / LARGEST_INT8
    # A row of zeros, or of numbers so small that their scale is 0: infinity gives the zeros it should have.
    divisors = torch.where(scales == 0, torch.inf, scales)
    return (wide / divisors[:, None]).round_().clamp_(-LARGEST_INT8, LARGEST_INT8), scales


_Fit: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Values [GROUP, n], scales [n] and squared errors [n] of n groups, all float32; scales rounded to float16."""


def _int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    """[GROUP, n] float32 → values [GROUP, n] and scales [n]."""
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
    values = (groups / divisors).clamp_(SMALLEST_INT4, LARGEST_INT4).round_()
    return values, stored, torch.addcmul(groups, values, stored, value=-1).square_().sum(0)


def _better(first: _Fit, second: _Fit) -> _Fit:
    """Group by group the fit of the smaller error, the first of equals."""
    chosen = second[2] < first[2]
    values, scales, errors = (torch.where(chosen, new, old) for old, new in zip(first, second, strict=True))
    return values, scales, errors


def _run(implementation: Quantize, weight: Tensor, form: QuantizedFormat) -> Tensor:
    """int8 for every weight; of int4 the errors of the groups: two scales may be as good as each other."""
    found = implementation(weight, form)
    if isinstance(found, Int8Weight):
        return found.dense(slice(None))
    assert int(found.values.min()) >= SMALLEST_INT4
    assert int(found.values.max()) <= LARGEST_INT4
    errors: Tensor = (found.dense(slice(None)) - weight.float()).view(-1, GROUP).square().sum(1).sqrt()
    return errors


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[QuantizeSpec]]:
    for rows, columns in [(1, 32), (3, 7), (5, 96), (33, 130), (700, 64)]:
        weight = torch.randn(rows, columns, generator=generator) * torch.rand(rows, 1, generator=generator)
        weight[rows // 2] = 0
        for form in ("int8", "int4"):
            if form == "int8" or columns % GROUP == 0:
                yield Example(QuantizeSpec(dtype), (weight.to(dtype), form))


OP: Op[Quantize, QuantizeSpec] = Op(
    name="quantize",
    reference=quantize,
    tolerances=dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), Tolerance(1e-7, 1e-4)),
    examples=_examples,
    invariant=True,
    run=_run,
)
