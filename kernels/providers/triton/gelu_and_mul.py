"""GEGLU by ``device/gated.py``."""

from __future__ import annotations

from torch import Tensor

from kernels.ops.gelu_and_mul import GeluAndMul, GeluAndMulSpec
from kernels.providers.triton import supported
from kernels.providers.triton.gated import Gated
from kernels.registry import Provider


class TritonGeluAndMul(Gated):
    def __call__(self, gate_up: Tensor, tanh: bool) -> Tensor:
        return self.launch(gate_up, 2 if tanh else 1)


def _accepts(spec: GeluAndMulSpec) -> bool:
    return True


PROVIDER: Provider[GeluAndMul, GeluAndMulSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonGeluAndMul
)
