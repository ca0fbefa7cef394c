"""Layer normalisation by ``native/norm.c``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.layer_norm import LayerNorm, LayerNormSpec
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.providers.cpu.norm import launch
from kernels.registry import Machine, Provider


class NativeLayerNorm:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("layer_norm")

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return launch(self._library, self._kernel, x, weight, bias, eps, residual)


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: LayerNormSpec) -> bool:
    return spec.dtype == torch.float32


PROVIDER: Provider[LayerNorm, LayerNormSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: NativeLayerNorm(load())
)
