"""RMS normalisation with a weight."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from engine.layers.base import LayerContext, WeightSlot
from kernels.ops import rms_norm


class RMSNorm:
    def __init__(self, name: str, size: int, eps: float, context: LayerContext) -> None:
        self._name, self._eps = name, eps
        self._weight = context.empty(size)
        self._dtype = context.dtype
        self._norm = context.kernels.select(rms_norm.OP, rms_norm.RMSNormSpec(size, context.dtype))

    def weights(self) -> Iterator[WeightSlot]:
        yield WeightSlot(f"{self._name}.weight", self._weight, constant=1.0)

    def pack(self) -> None:
        self._weight = self._weight.to(self._dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return self._norm(x, self._weight, self._eps)[0]

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """(normalised ``x + residual``, ``x + residual``); None adds nothing."""
        return self._norm(x, self._weight, self._eps, residual)
