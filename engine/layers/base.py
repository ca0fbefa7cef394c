"""What every layer is built with, and how it names the weights it wants from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from engine.parallel import ALONE, Parallel, Span
from kernels.ops.linear import DENSE, GROUP, Weight, WeightFormat
from kernels.registry import Kernels

MatrixKind: TypeAlias = Literal["linear", "head"]
"""What a matrix is to a quantization: one of the model's projections, or embedding and language-model head."""


class Quantization(Protocol):
    """Weight-only quantization while loading."""

    name: str

    def weight_format(self, kind: MatrixKind) -> WeightFormat:
        """What ``quantize`` makes of a matrix of that kind."""
        ...

    def quantize(self, weight: Tensor, kind: MatrixKind) -> Weight:
        """``weight`` [N, K] of any float dtype, quantized."""
        ...


@dataclass(frozen=True)
class LayerContext:
    """Explicit surroundings of a model under construction."""

    kernels: Kernels
    device: torch.device
    dtype: torch.dtype
    """Of activations: float32 on a CPU, whatever the weights are."""
    weight_dtype: torch.dtype
    cache_dtype: torch.dtype
    block_size: int
    """Tokens in one KV-cache block."""
    max_model_len: int | None
    """Greatest position + 1 that will be asked for; None for the model's own limit."""
    quantization: Quantization | None = None
    parallel: Parallel = ALONE

    def empty(self, *shape: int) -> Tensor:
        """Memory for a weight, to be filled by the loader."""
        return torch.empty(shape, device=self.device, dtype=self.weight_dtype)

    def weight_format(self, kind: MatrixKind) -> WeightFormat:
        """How a matrix lies in memory once it is loaded."""
        if self.quantization is not None:
            return self.quantization.weight_format(kind)
        return DENSE[self.weight_dtype]

    def shares(self, size: int) -> list[Span]:
        """Every rank's part of what one matrix puts out and the next one sums over."""
        # A rank that has only some of the inputs has whole groups of them, where groups share a scale.
        in_groups = self.parallel.reduces and self.weight_format("linear") == "int4"
        return self.parallel.shares(size, GROUP if in_groups else 1)


@dataclass(frozen=True)
class WeightSlot:
    """One tensor of a checkpoint, and the place in a (perhaps merged) parameter that it fills."""

    name: str
    """In the checkpoint."""
    destination: Tensor
    """A view."""
    constant: float | None = None
    """Value of a dummy weight; None for random numbers."""
    part: tuple[Span, ...] = ()
    """For each dimension what the destination has of the checkpoint's tensor; empty where that is all."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That the checkpoint's tensor must have."""
        return tuple(span.whole for span in self.part) or tuple(self.destination.shape)


class Layer(Protocol):
    def weights(self) -> Iterator[WeightSlot]:
        """Every weight of the layer. Called before ``pack``."""
        ...

    def pack(self) -> None:
        """Bring loaded weights into the form that the chosen kernels want."""
        ...
