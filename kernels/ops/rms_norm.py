"""Root mean square layer normalisation (Zhang and Sennrich 2019), after an optional residual addition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.registry import Example, Op, Tolerance


class RMSNorm(Protocol):
    def __call__(
        self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class RMSNormSpec:
    size: int
    dtype: torch.dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Normalise the last dimension of ``x + residual``.

    x and residual [..., H]; weight [H]. Returns (normalised, ``x + residual``), both in the dtype of x. The mean is
    taken in float32 and the result rounded before it is multiplied by the weight, as in transformers' LlamaRMSNorm.
    """
    if residual is not None:
        x = x + residual
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype), x


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[RMSNormSpec]]:
    for shape, residual in [((1, 64), False), ((5, 96), True), ((3, 4, 32), False), ((2, 1000), True)]:
        x = torch.randn(shape, generator=generator).to(dtype)
        weight = torch.randn(shape[-1], generator=generator).to(dtype)
        added = torch.randn(shape, generator=generator).to(dtype) if residual else None
        yield Example(RMSNormSpec(shape[-1], dtype), (x, weight, 1e-6, added))
    columns = torch.randn(3, 7 * 32, generator=generator).to(dtype)
    heads = columns[:, 32:160].view(3, 4, 32)  # As queries stand in the product of a merged projection.
    yield Example(RMSNormSpec(32, dtype), (heads, torch.randn(32, generator=generator).to(dtype), 1e-6, None))


OP: Op[RMSNorm, RMSNormSpec] = Op(
    name="rms_norm",
    reference=rms_norm,
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
)
