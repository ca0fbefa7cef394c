"""Attention over the paged KV cache, the metadata of a step that it needs, and the rows that a step asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from engine.layers.base import LayerContext
from kernels.ops import last_rows, paged_attention, rope_and_cache


class LayerCache(NamedTuple):
    """What the cache holds for one layer; the order in memory is the cache's affair."""

    keys: Tensor
    """[num_blocks, block_size, Hkv, D]"""
    values: Tensor
    key_scales: Tensor | None = None
    """[num_blocks, block_size, Hkv] where the dtype has scales, see ``kernels.kv_formats``."""
    value_scales: Tensor | None = None


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
    one_each: Tensor
    """[S + 1] int32, 0 to S: what ``query_start_loc`` is once only the last token of each sequence is left."""
    seq_lens: Tensor
    """[S] int32: tokens in the cache once this step's are written."""
    max_query_len: int
    max_seq_len: int


class LastRows:
    """Leaves of the rows of a step those of each sequence's last token."""

    def __init__(self, context: LayerContext) -> None:
        self._select = context.kernels.select(last_rows.OP, last_rows.LastRowsSpec(context.dtype))

    def __call__(self, x: Tensor, metadata: AttentionMetadata) -> Tensor:
        """[T, ...] → [S, ...]."""
        return self._select(x.flatten(1), metadata.query_start_loc).view(-1, *x.shape[1:])


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
        last: LastRows | None = None,
    ) -> Tensor:
        """q [T, Hq, D]; k and v [T, Hkv, D], rotation (cos, sin) [T, D/2] → [T, Hq, D], with ``last`` [S, Hq, D]."""
        keys, values, *scales = cache
        q = self._rope(q, k, v, metadata.positions, *rotation, keys, values, metadata.slot_mapping, *scales)
        starts, most = metadata.query_start_loc, metadata.max_query_len
        if last is not None:
            q, starts, most = last(q, metadata), metadata.one_each, 1
        return self._attend(
            q,
            keys,
            values,
            metadata.block_tables,
            starts,
            metadata.seq_lens,
            max_query_len=most,
            max_seq_len=metadata.max_seq_len,
            scale=self._scale,
            sliding_window=self._sliding_window,
            k_scales=cache.key_scales,
            v_scales=cache.value_scales,
        )
