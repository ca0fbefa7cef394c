"""Layer normalisation (Ba et al. 2016), after an optional residual addition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.registry import Example, Op, Tolerance


class LayerNorm(Protocol):
    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class LayerNormSpec:
    size: int
    dtype: torch.dtype


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Normalise the last dimension of ``x + residual``.

    x and residual [..., H]; weight and bias [H]. Returns (normalised, ``x + residual``), both in the dtype of x. Mean
    and variance are taken in float32 at least.
    """
    if residual is not None:
        x = x + residual
    return functional.layer_norm(x, weight.shape, weight, bias, eps), x


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[LayerNormSpec]]:
    for shape, biased, residual in [((1, 64), True, False), ((5, 97), False, True), ((3, 4, 32), True, False)]:
        x, added = (torch.randn(2, *shape, generator=generator) + 3).to(dtype)
        weight, bias = torch.randn(2, shape[-1], generator=generator).to(dtype)
        options = (x, weight, bias if biased else None, 1e-5, added if residual else None)
        yield Example(LayerNormSpec(shape[-1], dtype), options)


OP: Op[LayerNorm, LayerNormSpec] = Op(
    name="layer_norm",
    reference=layer_norm,
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(4e-3, 4e-3),
    },
    examples=_examples,
)
