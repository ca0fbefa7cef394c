"""The gated half of an MLP with GELU: ``gelu(gate) * up`` (GEGLU, Shazeer 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.registry import Example, Op, Tolerance


class GeluAndMul(Protocol):
    def __call__(self, gate_up: Tensor, tanh: bool) -> Tensor: ...


@dataclass(frozen=True)
class GeluAndMulSpec:
    size: int
    dtype: torch.dtype


def gelu_and_mul(gate_up: Tensor, tanh: bool) -> Tensor:
    """``gate_up`` [T, 2 I], the gate first → [T, I] in the same dtype.

    GELU (Hendrycks and Gimpel 2016) by the error function, or by its approximation with tanh.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh" if tanh else "none") * up


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[GeluAndMulSpec]]:
    for rows, size, tanh in [(1, 64, False), (7, 100, True), (33, 256, False), (2, 1030, True)]:
        gate_up = torch.randn(rows, 2 * size, generator=generator).mul(4).to(dtype)
        yield Example(GeluAndMulSpec(size, dtype), (gate_up, tanh))


OP: Op[GeluAndMul, GeluAndMulSpec] = Op(
    name="gelu_and_mul",
    reference=gelu_and_mul,
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
    invariant=True,
)
