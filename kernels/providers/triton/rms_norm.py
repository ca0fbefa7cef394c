"""RMS normalisation by ``device/norm.py``."""

from __future__ import annotations

from torch import Tensor

from kernels.ops.rms_norm import RMSNorm, RMSNormSpec
from kernels.providers.triton import supported
from kernels.providers.triton.norm import LONGEST, rows_of
from kernels.registry import Provider


class TritonRMSNorm:
    def __init__(self) -> None:
        from kernels.providers.triton.device import norm

        self._kernel = norm.rms_norm

    def __call__(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        grid, out, total, strides, heads, size, options = rows_of(x, residual)
        added = x if residual is None else residual
        self._kernel[grid](x, added, weight, out, total, *strides, heads, size, eps, **options)
        return out, total


def _accepts(spec: RMSNormSpec) -> bool:
    return spec.size <= LONGEST


PROVIDER: Provider[RMSNorm, RMSNormSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonRMSNorm
)
