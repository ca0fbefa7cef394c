"""Rotary position embedding (Su et al. 2021) of queries and keys, and the write of keys and values to the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.kv_formats import FP8, as_bytes, cache_dtypes, has_scales, stored
from kernels.registry import Example, Op, Tolerance


class RopeAndCache(Protocol):
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
    ) -> Tensor: ...


@dataclass(frozen=True)
class RopeAndCacheSpec:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype
    """Of q, k and v."""
    cache_dtype: torch.dtype


def rope_and_cache(
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
    """Rotate q and k, write k and v to the cache and return the rotated q.

    q [T, Hq, D]; k, v [T, Hkv, D]; positions [T] int64; cos, sin [L, D/2] float32, a row for each position; caches
    [num_blocks, block_size, Hkv, D] of any strides, written in place; slot_mapping [T] int64: block id * block_size +
    offset in it. A head's first half is rotated with its second, as in the Hugging Face checkpoints; in float32,
    rounded once, to q's dtype or, as ``kernels.kv_formats`` says, to the cache's. A cache of int8 has scales beside
    it, [num_blocks, block_size, Hkv] float32 of any strides, which are written as well.
    """
    turn = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    block_size = k_cache.shape[1]
    place = slot_mapping // block_size, slot_mapping % block_size
    for x, cache, scales in ((_rotate(k, *turn), k_cache, k_scales), (v.float(), v_cache, v_scales)):
        numbers, found = stored(x, cache.dtype)
        as_bytes(cache).index_put_(place, as_bytes(numbers))
        if found is not None:
            assert scales is not None, "a cache of int8 has scales"
            scales.index_put_(place, found)
    return _rotate(q, *turn).to(q.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _run(implementation: RopeAndCache, *arguments: Tensor) -> tuple[Tensor, ...]:
    """The rotated q, and copies of the caches and scales as they were written."""
    q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping, *scales = arguments
    k_cache, v_cache, *scales = (each.clone() for each in (k_cache, v_cache, *scales))  # Of the same strides.
    out = implementation(q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping, *scales)
    return out, as_bytes(k_cache), as_bytes(v_cache), *scales


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[RopeAndCacheSpec]]:
    for tokens, heads, kv_heads, head_dim, block_size in [(1, 8, 2, 32, 16), (9, 4, 4, 20, 4), (37, 6, 1, 64, 8)]:
        for cache_dtype in cache_dtypes(dtype):
            merged = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim, generator=generator)
            angles = torch.rand(2 * tokens, head_dim // 2, generator=generator) * 100
            cos, sin = angles.cos(), angles.sin()
            if cache_dtype in (FP8, torch.int8):
                # Quarter turns, which no implementation rounds: a step of 8 bits is beyond any tolerance.
                cos, sin = cos.sign() * (angles % 2 < 1), sin.sign() * (angles % 2 >= 1)
            if cache_dtype == FP8:  # From what is too small for it to what is too large.
                merged *= 10 ** (torch.rand(merged.shape, generator=generator) * 8 - 4)
            q, k, v = torch.split(merged.to(dtype).view(tokens, -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
            positions = torch.randint(2 * tokens, (tokens,), generator=generator)
            blocks = tokens // block_size + 3
            caches = torch.randn(2, blocks, block_size, kv_heads, head_dim, generator=generator).to(cache_dtype)
            # In order from an odd slot on, as a prompt's tokens lie, or anywhere, as those of many sequences do.
            slots = torch.arange(tokens) + 3
            if cache_dtype == dtype:
                slots = torch.randperm(blocks * block_size, generator=generator)[:tokens]
            keys = transposed(caches[0]) if cache_dtype != dtype or tokens > 1 else caches[0]
            scales = torch.rand(2, blocks, block_size, kv_heads, generator=generator) if has_scales(cache_dtype) else ()
            yield Example(
                RopeAndCacheSpec(heads, kv_heads, head_dim, block_size, dtype, cache_dtype),
                (q, k, v, positions, cos, sin, keys, caches[1], slots, *scales),
            )


def transposed(cache: Tensor) -> Tensor:
    """An equal cache whose memory is in the order (block, head, D, offset), as the engine's keys are on a CPU."""
    return cache.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


OP: Op[RopeAndCache, RopeAndCacheSpec] = Op(
    name="rope_and_cache",
    reference=rope_and_cache,
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
    invariant=True,
    run=_run,
)
