"""int8: symmetric, one scale an output channel. Every matrix of the model, embedding and head included."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.layers.base import MatrixKind
from engine.threads import PIECE, in_threads
from kernels.ops.linear import Int8Weight, WeightFormat

LARGEST = 127


class Int8:
    """``scale = max|w| / 127``; a weight becomes the nearest multiple of its row's scale, ties the even one."""

    name = "int8"

    def weight_format(self, kind: MatrixKind) -> WeightFormat:
        return "int8"

    def quantize(self, weight: Tensor, kind: MatrixKind) -> Int8Weight:
        rows, columns = weight.shape
        values = torch.empty(rows, columns, dtype=torch.int8)
        scales = torch.empty(rows)
        count = max(1, PIECE // columns)

        def piece(start: int) -> None:
            part = slice(start, start + count)
            values[part], scales[part] = _quantize(weight[part].float())

        in_threads(piece, range(0, rows, count))
        if not scales.isfinite().all():
            raise ModelError(f"row {int(scales.isfinite().int().argmin())} holds a value that is not finite")
        return Int8Weight(values, scales)


def _quantize(wide: Tensor) -> tuple[Tensor, Tensor]:
    """[n, K] float32 → values as float32 [n, K], scales [n]."""
    scales = wide.abs().amax(1) / LARGEST
    # A row of zeros, or of numbers so small that their scale is 0: any divisor gives the zeros it should have.
    divisors = torch.where(scales == 0, torch.inf, scales)
    return (wide / divisors[:, None]).round_().clamp_(-LARGEST, LARGEST), scales


QUANTIZATION = Int8()
