"""Layer normalisation by ``device/norm.py``."""

from __future__ import annotations

from torch import Tensor

from kernels.ops.layer_norm import LayerNorm, LayerNormSpec
from kernels.providers.triton import supported
from kernels.providers.triton.norm import LONGEST, rows_of
from kernels.registry import Provider


class TritonLayerNorm:
    def __init__(self) -> None:
        from kernels.providers.triton.device import norm

        self._kernel = norm.layer_norm

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        grid, out, total, strides, heads, size, options = rows_of(x, residual)
        added, shift = (x if residual is None else residual), (weight if bias is None else bias)
        options["HAS_BIAS"] = bias is not None
        self._kernel[grid](x, added, weight, shift, out, total, *strides, heads, size, eps, **options)
        return out, total


def _accepts(spec: LayerNormSpec) -> bool:
    return spec.size <= LONGEST


PROVIDER: Provider[LayerNorm, LayerNormSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonLayerNorm
)
