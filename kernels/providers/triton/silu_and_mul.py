"""SwiGLU by ``device/gated.py``."""

from __future__ import annotations

from torch import Tensor

from kernels.ops.silu_and_mul import SiluAndMul, SiluAndMulSpec
from kernels.providers.triton import supported
from kernels.providers.triton.gated import Gated
from kernels.registry import Provider


class TritonSiluAndMul(Gated):
    def __call__(self, gate_up: Tensor) -> Tensor:
        return self.launch(gate_up, 0)


def _accepts(spec: SiluAndMulSpec) -> bool:
    return True


PROVIDER: Provider[SiluAndMul, SiluAndMulSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonSiluAndMul
)
