"""What RMS and layer normalisation share: the shape of their launch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

LONGEST = 1 << 16
"""Numbers of a row that one program holds."""


class Rows(NamedTuple):
    """x [T, H] or [T, heads, H], rows and heads at any stride, as arguments of a kernel in ``device/norm.py``."""

    grid: tuple[int, int]
    out: Tensor
    total: Tensor
    strides: tuple[int, int, int, int]
    heads: int
    size: int
    options: dict[str, Any]


def rows_of(x: Tensor, residual: Tensor | None) -> Rows:
    if x.stride(-1) != 1 or (residual is not None and residual.stride(-1) != 1) or x.dim() not in (2, 3):
        raise ValueError(f"x of shape {tuple(x.shape)}: two or three dimensions, the last contiguous, fit")
    heads, size = (1 if x.dim() == 2 else x.shape[1]), x.shape[-1]
    block = 1 << (size - 1).bit_length()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(out)
    strides = (*_strides(x), *_strides(x if residual is None else residual))
    warps = min(16, max(1, block // 512))
    options = {"HAS_RESIDUAL": residual is not None, "BLOCK": block, "num_warps": warps}
    return Rows((x.shape[0], heads), out, total, strides, heads, size, options)


def _strides(x: Tensor) -> tuple[int, int]:
    """Of rows and of heads."""
    return x.stride(0), (0 if x.dim() == 2 else x.stride(1))
