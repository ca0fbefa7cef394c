"""Rotary position embedding (Su et al. 2021) of queries and keys, and the write of keys and values to the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

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
) -> Tensor:
    """Rotate q and k, write k and v to the cache and return the rotated q.

    q [T, Hq, D]; k, v [T, Hkv, D]; positions [T] int64; cos, sin [L, D/2] float32, a row for each position; caches
    [num_blocks, block_size, Hkv, D] of any strides, written in place; slot_mapping [T] int64: block id * block_size +
    offset in it. A head's first half is rotated with its second, as in the Hugging Face checkpoints; in float32,
    rounded once, to q's dtype or the cache's.
    """
    turn = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    block_size = k_cache.shape[1]
    place = slot_mapping // block_size, slot_mapping % block_size
    k_cache.index_put_(place, _rotate(k, *turn).to(k_cache.dtype))
    v_cache.index_put_(place, v.to(v_cache.dtype))
    return _rotate(q, *turn).to(q.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _run(implementation: RopeAndCache, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping = arguments
    k_cache, v_cache = k_cache.clone(), v_cache.clone()  # Of the same strides.
    return implementation(q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping), k_cache, v_cache


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[RopeAndCacheSpec]]:
    for tokens, heads, kv_heads, head_dim, block_size in [(1, 8, 2, 32, 16), (9, 4, 4, 20, 4), (37, 6, 1, 64, 8)]:
        for cache_dtype in cache_dtypes(dtype):
            merged = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim, generator=generator).to(dtype)
            q, k, v = torch.split(merged.view(tokens, -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
            angles = torch.rand(2 * tokens, head_dim // 2, generator=generator) * 100
            positions = torch.randint(2 * tokens, (tokens,), generator=generator)
            blocks = tokens // block_size + 3
            caches = torch.randn(2, blocks, block_size, kv_heads, head_dim, generator=generator).to(cache_dtype)
            # In order from an odd slot on, as a prompt's tokens lie, or anywhere, as those of many sequences do.
            slots = torch.arange(tokens) + 3
            if cache_dtype == dtype:
                slots = torch.randperm(blocks * block_size, generator=generator)[:tokens]
            keys = transposed(caches[0]) if cache_dtype != dtype or tokens > 1 else caches[0]
            yield Example(
                RopeAndCacheSpec(heads, kv_heads, head_dim, block_size, dtype, cache_dtype),
                (q, k, v, positions, angles.cos(), angles.sin(), keys, caches[1], slots),
            )


def cache_dtypes(dtype: torch.dtype) -> list[torch.dtype]:
    """The cache has the dtype of the activations, or a narrower one beside float32."""
    return [dtype, torch.bfloat16, torch.float16] if dtype == torch.float32 else [dtype]


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
