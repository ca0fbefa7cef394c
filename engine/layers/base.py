"""What every layer is built with, and how it names the weights it wants from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.registry import Kernels


@dataclass(frozen=True)
class LayerContext:
    """Explicit surroundings of a model under construction."""

    kernels: Kernels
    device: torch.device
    dtype: torch.dtype
    block_size: int
    """Tokens in one KV-cache block."""
    max_model_len: int | None
    """Greatest position + 1 that will be asked for; None for the model's own limit."""

    def empty(self, *shape: int) -> Tensor:
        """Memory for a weight, to be filled by the loader."""
        return torch.empty(shape, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class WeightSlot:
    """One tensor of a checkpoint, and the place in a (perhaps merged) parameter that it fills."""

    name: str
    """In the checkpoint."""
    destination: Tensor
    """A view; its shape is the one the checkpoint must have."""
    constant: float | None = None
    """Value of a dummy weight; None for random numbers."""


class Layer(Protocol):
    def weights(self) -> Iterator[WeightSlot]:
        """Every weight of the layer. Called before ``pack``."""
        ...

    def pack(self) -> None:
        """Bring loaded weights into the form that the chosen kernels want."""
        ...
