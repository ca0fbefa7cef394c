"""int8 weights with one scale an output channel, in every matrix of the model."""

from __future__ import annotations

from engine.quantization.base import Quantizer
from kernels.registry import Kernels


def build(kernels: Kernels) -> Quantizer:
    return Quantizer("int8", {"linear": "int8", "head": "int8"}, kernels)
