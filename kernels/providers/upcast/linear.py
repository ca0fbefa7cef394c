"""Linear in float32 over 16-bit weights.

Without AVX-512 or AMX a library multiplies 16-bit matrices about ten times slower than float32 ones. Here the weight
stays in 16 bits and is widened a slab at a time, so that the float32 copy never leaves the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.ops.linear import Handle, Linear, LinearSpec
from kernels.registry import Machine, Provider

SLAB = 1 << 18
"""Weights widened at once: 1 MiB of float32."""
FEW_ROWS = 2
"""Up to here reading the weight dominates, and torch's 16-bit matrix-vector product is the faster way."""

NATIVE = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
"""Torch's question whether its library multiplies a dtype in instructions of this processor."""


class UpcastLinear:
    def pack(self, weight: Tensor, bias: Tensor | None) -> Handle:
        return weight, bias

    def __call__(self, x: Tensor, handle: Handle) -> Tensor:
        weight, bias = handle
        if x.shape[0] <= FEW_ROWS:
            return functional.linear(x, weight, bias)
        wide = x.float()
        out = torch.empty(x.shape[0], weight.shape[0], dtype=x.dtype)
        slab = max(1, SLAB // weight.shape[1])
        for start in range(0, weight.shape[0], slab):
            stop = start + slab
            added = None if bias is None else bias[start:stop].float()
            out[:, start:stop] = functional.linear(wide, weight[start:stop].float(), added)
        return out


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu"


def _accepts(spec: LinearSpec) -> bool:
    return spec.dtype in NATIVE and not getattr(torch.ops.mkldnn, NATIVE[spec.dtype], lambda: False)()


PROVIDER: Provider[Linear, LinearSpec] = Provider(
    name="upcast", version="1", priority=10, supported=_supported, accepts=_accepts, load=UpcastLinear
)
