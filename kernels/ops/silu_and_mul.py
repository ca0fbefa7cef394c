"""The gated half of an MLP: ``silu(gate) * up`` (SwiGLU, Shazeer 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.registry import Example, Op, Tolerance


class SiluAndMul(Protocol):
    def __call__(self, gate_up: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SiluAndMulSpec:
    size: int
    dtype: torch.dtype


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """``gate_up`` [T, 2 I], the gate first → [T, I] in the same dtype."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[SiluAndMulSpec]]:
    for rows, size in [(1, 64), (7, 100), (33, 256)]:
        gate_up = torch.randn(rows, 2 * size, generator=generator).mul(4).to(dtype)
        yield Example(SiluAndMulSpec(size, dtype), (gate_up,))


OP: Op[SiluAndMul, SiluAndMulSpec] = Op(
    name="silu_and_mul",
    reference=silu_and_mul,
    tolerances={
        torch.float32: Tolerance(1e-6, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
    invariant=True,
)
