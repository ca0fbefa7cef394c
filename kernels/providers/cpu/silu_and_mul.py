"""``silu(gate) * up`` by ``native/activation.c``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.silu_and_mul import SiluAndMul, SiluAndMulSpec
from kernels.providers.cpu.gated import launch
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class NativeSiluAndMul:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("silu_and_mul")

    def __call__(self, gate_up: Tensor) -> Tensor:
        return launch(self._library, self._kernel, gate_up)


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: SiluAndMulSpec) -> bool:
    return spec.dtype == torch.float32


PROVIDER: Provider[SiluAndMul, SiluAndMulSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: NativeSiluAndMul(load())
)
