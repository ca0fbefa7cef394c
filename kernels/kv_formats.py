"""What a KV cache holds in the place of float32 numbers.

Wider dtypes are rounded to the nearest. In 8 bits a number is either

- e4m3 (Micikevicius et al. 2022; ``torch.float8_e4m3fn``): sign, four bits of exponent and three of mantissa, without a
  scale. What is beyond 448 becomes 448, NaN stays NaN; or
- int8 with a scale for each token and key-value head: ``max|x| / 127`` of its D numbers, which become the nearest
  multiples, ties the even one. Where one of them is not finite the scale is NaN, and so is all that is read of them.

What is stored of a token depends on that token alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = 448.0
LARGEST_INT8 = 127
SCALE = torch.float32
"""Of a scale."""


def cache_dtypes(dtype: torch.dtype) -> list[torch.dtype]:
    """Those of caches beside activations of ``dtype``: the same or, beside float32, a narrower one; and 8 bits."""
    wide = [dtype, torch.bfloat16, torch.float16] if dtype == torch.float32 else [dtype]
    return [*wide, FP8, torch.int8]


def has_scales(dtype: torch.dtype) -> bool:
    return dtype == torch.int8


def stored(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """x [..., D] float32 as a cache of ``dtype`` holds it: the numbers and, where it has scales, these [...]."""
    if dtype == FP8:
        return x.clamp(-LARGEST_FP8, LARGEST_FP8).to(FP8), None
    if not has_scales(dtype):
        return x.to(dtype), None
    scales = x.abs().amax(-1) / LARGEST_INT8
    finite = scales.isfinite()
    # Of zeros, or of numbers so small that their scale is 0: infinity gives the zeros they should be.
    divisors = torch.where(finite & (scales > 0), scales, torch.inf)
    values = (x / divisors[..., None]).round_().clamp_(-LARGEST_INT8, LARGEST_INT8)
    return torch.where(finite[..., None], values, 0.0).to(dtype), torch.where(finite, scales, torch.nan)


def read(numbers: Tensor, scales: Tensor | None) -> Tensor:
    """What ``stored`` gave, in float32."""
    wide = numbers.float()
    return wide if scales is None else wide * scales[..., None]


def as_bytes(cache: Tensor) -> Tensor:
    """A cache whose dtype torch can index and compare: one of e4m3 as its bytes, in the same memory."""
    return cache.view(torch.uint8) if cache.dtype == FP8 else cache
