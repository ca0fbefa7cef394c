"""RMS normalisation by ``native/norm.c``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.rms_norm import RMSNorm, RMSNormSpec
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.providers.cpu.norm import launch
from kernels.registry import Machine, Provider


class NativeRMSNorm:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("rms_norm")

    def __call__(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return launch(self._library, self._kernel, x, weight, None, eps, residual)


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: RMSNormSpec) -> bool:
    return spec.dtype == torch.float32


PROVIDER: Provider[RMSNorm, RMSNormSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: NativeRMSNorm(load())
)
