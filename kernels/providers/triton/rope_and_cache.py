"""Rotary embedding and the write to the cache by ``device/rope.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.rope_and_cache import RopeAndCache, RopeAndCacheSpec
from kernels.providers.triton import supported
from kernels.providers.triton.held import Held
from kernels.registry import Provider


class TritonRopeAndCache:
    def __init__(self) -> None:
        from kernels.providers.triton.device import rope

        self._kernel = rope.rope_and_cache

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        slot_mapping: Tensor,
        k_scales: Tensor | None = None,
        v_scales: Tensor | None = None,
    ) -> Tensor:
        if any(each.stride(2) != 1 for each in (q, k, v)):
            raise ValueError("q, k and v must have contiguous heads")
        tokens, heads, head_dim = q.shape
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        strides = [stride for each in (q, k, v) for stride in each.stride()[:2]]
        cache = [*k_cache.stride(), *v_cache.stride()]
        held = Held.of(k_cache, v_cache, k_scales, v_scales)
        half = head_dim // 2
        self._kernel[(tokens, heads + k.shape[1])](
            q,
            k,
            v,
            positions,
            cos,
            sin,
            held.keys,
            held.values,
            held.key_scales,
            held.value_scales,
            slot_mapping,
            out,
            *strides,
            cos.stride(0),
            *cache,
            *held.scale_strides,
            heads,
            k_cache.shape[1],
            half,
            HALF=1 << (half - 1).bit_length(),
            FORMAT=held.format,
            num_warps=1,
        )
        return out


def _accepts(spec: RopeAndCacheSpec) -> bool:
    return spec.head_dim % 2 == 0


PROVIDER: Provider[RopeAndCache, RopeAndCacheSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonRopeAndCache
)
