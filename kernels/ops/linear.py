"""Linear layer: ``x @ weight.T + bias``.

The one op whose implementation may want a layout of its own: ``pack`` is called once, after the weights are loaded,
and what it returns is passed back on every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.registry import Example, Op, Tolerance

Handle = Any
"""A provider's own form of a weight and its bias."""


class Linear(Protocol):
    def pack(self, weight: Tensor, bias: Tensor | None) -> Handle:
        """``weight`` [N, K] and ``bias`` [N] in the form that calls want. May keep them or copy them."""
        ...

    def __call__(self, x: Tensor, handle: Handle) -> Tensor:
        """``x`` [T, K] → [T, N] in the dtype of x; sums are kept in float32 or wider."""
        ...


@dataclass(frozen=True)
class LinearSpec:
    in_features: int
    out_features: int
    bias: bool
    dtype: torch.dtype


class TorchLinear:
    """The reference: torch's own, on the weight as it is."""

    def pack(self, weight: Tensor, bias: Tensor | None) -> Handle:
        return weight, bias

    def __call__(self, x: Tensor, handle: Handle) -> Tensor:
        weight, bias = handle
        return functional.linear(x, weight, bias)


def _run(implementation: Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return implementation(x, implementation.pack(weight, bias))


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[LinearSpec]]:
    for rows, in_features, out_features, bias in [(1, 64, 96, False), (3, 33, 7, True), (17, 128, 260, True)]:
        x = torch.randn(rows, in_features, generator=generator).to(dtype)
        weight = (torch.randn(out_features, in_features, generator=generator) * in_features**-0.5).to(dtype)
        added = torch.randn(out_features, generator=generator).to(dtype) if bias else None
        yield Example(LinearSpec(in_features, out_features, bias, dtype), (x, weight, added))


OP: Op[Linear, LinearSpec] = Op(
    name="linear",
    reference=TorchLinear(),
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
    run=_run,
)
