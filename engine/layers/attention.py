"""Attention over the paged KV cache, and the metadata of a step that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from engine.layers.base import LayerContext
from kernels.ops import paged_attention, rope_and_cache

LayerCache: TypeAlias = tuple[Tensor, Tensor]
"""One layer's keys and values, each [num_blocks, block_size, Hkv, D]; the order in memory is the cache's affair."""


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """Where the tokens of one step stand. T tokens, S sequences; passed through ``forward`` and kept nowhere."""

    positions: Tensor
    """[T] int64, in their sequences."""
    slot_mapping: Tensor
    """[T] int64: block id * block_size + offset, where each token's keys and values go."""
    block_tables: Tensor
    """[S, max_blocks] int32; what lies past a sequence's blocks is never read."""
    query_start_loc: Tensor
    """[S + 1] int32: where each sequence's tokens begin in T."""
    seq_lens: Tensor
    """[S] int32: tokens in the cache once this step's are written."""
    max_query_len: int
    max_seq_len: int


class Attention:
    """Rotary embedding, cache write and attention of one layer; no weights."""

    def __init__(
        self, heads: int, kv_heads: int, head_dim: int, sliding_window: int | None, context: LayerContext
    ) -> None:
        select = context.kernels.select
        sizes, dtypes = (heads, kv_heads, head_dim, context.block_size), (context.dtype, context.cache_dtype)
        self._scale = head_dim**-0.5
        self._sliding_window = sliding_window
        self._rope = select(rope_and_cache.OP, rope_and_cache.RopeAndCacheSpec(*sizes, *dtypes))
        self._attend = select(
            paged_attention.OP, paged_attention.PagedAttentionSpec(*sizes, sliding_window is not None, *dtypes)
        )

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: LayerCache,
        metadata: AttentionMetadata,
    ) -> Tensor:
        """q [T, Hq, D]; k and v [T, Hkv, D], rotation (cos, sin) [T, D/2] → [T, Hq, D]."""
        keys, values = cache
        q = self._rope(q, k, v, metadata.positions, *rotation, keys, values, metadata.slot_mapping)
        return self._attend(
            q,
            keys,
            values,
            metadata.block_tables,
            metadata.query_start_loc,
            metadata.seq_lens,
            max_query_len=metadata.max_query_len,
            max_seq_len=metadata.max_seq_len,
            scale=self._scale,
            sliding_window=self._sliding_window,
        )
