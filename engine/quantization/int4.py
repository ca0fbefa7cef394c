"""int4 weights in groups of 32; embedding and language-model head, where errors cost most, in int8."""

from __future__ import annotations

from engine.quantization.base import Quantizer
from kernels.registry import Kernels


def build(kernels: Kernels) -> Quantizer:
    return Quantizer("int4", {"linear": "int4", "head": "int8"}, kernels)
