"""Linear layers with dense weights in one tiling for all numbers of rows, in place of the GPU's library."""

from __future__ import annotations

from kernels.ops.linear import DENSE, Linear, LinearSpec
from kernels.providers.triton.linear import TritonLinear
from kernels.providers.triton_invariant import supported
from kernels.registry import Provider


def _accepts(spec: LinearSpec) -> bool:
    return spec.weights == DENSE[spec.dtype]


PROVIDER: Provider[Linear, LinearSpec] = Provider(
    name="triton-invariant", version="1", priority=30, supported=supported, accepts=_accepts, load=TritonLinear
)
