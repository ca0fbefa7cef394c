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


def rope_and_cache(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> Tensor:
    """Rotate q and k, write k and v to the cache and return the rotated q.

    q [T, Hq, D]; k, v [T, Hkv, D]; cos, sin [T, D/2] float32, of each token's position; caches
    [num_blocks, block_size, Hkv, D], written in place; slot_mapping [T] int64: block id * block_size + offset in it.
    A head's first half is rotated with its second, as in the Hugging Face checkpoints; in float32, rounded once.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    k_cache.view(-1, *k.shape[1:]).index_copy_(0, slot_mapping, _rotate(k, cos, sin))
    v_cache.view(-1, *v.shape[1:]).index_copy_(0, slot_mapping, v)
    return _rotate(q, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _run(implementation: RopeAndCache, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, cos, sin, k_cache, v_cache, slot_mapping = arguments
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    return implementation(q, k, v, cos, sin, k_cache, v_cache, slot_mapping), k_cache, v_cache


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[RopeAndCacheSpec]]:
    for tokens, heads, kv_heads, head_dim, block_size in [(1, 8, 2, 32, 16), (9, 4, 4, 20, 4), (37, 6, 1, 64, 8)]:
        merged = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim, generator=generator).to(dtype)
        q, k, v = torch.split(merged.view(tokens, -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
        angles = torch.rand(tokens, head_dim // 2, generator=generator) * 100
        blocks = tokens // block_size + 3
        caches = torch.randn(2, blocks, block_size, kv_heads, head_dim, generator=generator).to(dtype)
        slots = torch.randperm(blocks * block_size, generator=generator)[:tokens]
        yield Example(
            RopeAndCacheSpec(heads, kv_heads, head_dim, block_size, dtype),
            (
                q,
                k,
                v,
                angles.cos(),
                angles.sin(),
                caches[0],
                caches[1],
                slots,
            ),
        )


OP: Op[RopeAndCache, RopeAndCacheSpec] = Op(
    name="rope_and_cache",
    reference=rope_and_cache,
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
    run=_run,
)
