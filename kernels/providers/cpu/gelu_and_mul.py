"""``gelu(gate) * up`` by ``native/activation.c``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.gelu_and_mul import GeluAndMul, GeluAndMulSpec
from kernels.providers.cpu.gated import launch
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class NativeGeluAndMul:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._exact, self._tanh = library.kernel("gelu_and_mul"), library.kernel("gelu_tanh_and_mul")

    def __call__(self, gate_up: Tensor, tanh: bool) -> Tensor:
        return launch(self._library, self._tanh if tanh else self._exact, gate_up)


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: GeluAndMulSpec) -> bool:
    return spec.dtype == torch.float32


PROVIDER: Provider[GeluAndMul, GeluAndMulSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: NativeGeluAndMul(load())
)
