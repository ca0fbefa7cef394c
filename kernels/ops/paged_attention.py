"""Causal attention of packed, variable-length queries over a paged KV cache.

The cache is cut into blocks and a sequence's keys lie in the blocks its block table names (Kwon et al. 2023). Symbols:
T tokens and S sequences in the step, Hq query heads, Hkv key-value heads (Hq a multiple of Hkv), D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.registry import Example, Op, Tolerance


class PagedAttention(Protocol):
    def __call__(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        block_tables: Tensor,
        query_start_loc: Tensor,
        seq_lens: Tensor,
        *,
        max_query_len: int,
        max_seq_len: int,
        scale: float,
        sliding_window: int | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class PagedAttentionSpec:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    sliding_window: bool
    dtype: torch.dtype


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    *,
    max_query_len: int,
    max_seq_len: int,
    scale: float,
    sliding_window: int | None = None,
) -> Tensor:
    """Attention output [T, Hq, D] in the dtype of q; products and softmax in float32.

    q [T, Hq, D]; caches [num_blocks, block_size, Hkv, D], the step's own keys and values already in them;
    block_tables [S, max_blocks] int32; query_start_loc [S + 1] int32, where each sequence's queries begin in q;
    seq_lens [S] int32, keys of each sequence, its queries' own included; max_query_len and max_seq_len, the greatest
    of each, for providers that size their launch by them. A query sees the keys at and before its position, with a
    sliding window only the last ``sliding_window`` of those.

    Sequences with one query are computed together, grouped by a length that depends on the sequence alone; the others
    one at a time.
    """
    starts, lengths = query_start_loc.tolist(), seq_lens.tolist()
    k_flat, v_flat = k_cache.flatten(0, 1), v_cache.flatten(0, 1)
    cache = _Cache(k_flat, v_flat, block_tables, k_cache.shape[1], scale)
    out = torch.empty_like(q)
    single: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        start, stop = starts[row], starts[row + 1]
        if stop - start == 1:
            keys = length if sliding_window is None else min(length, sliding_window)
            single.setdefault(_padded(keys), []).append(row)
        else:
            out[start:stop] = _prefill(q[start:stop], cache, row, length, sliding_window)
    for padded, rows in single.items():
        index = torch.tensor(rows, device=q.device)
        tokens = query_start_loc[index].long()
        out[tokens] = _decode(q[tokens], cache, index, seq_lens[index].long(), padded, sliding_window)
    return out


@dataclass(frozen=True, slots=True)
class _Cache:
    keys: Tensor
    values: Tensor
    block_tables: Tensor
    block_size: int
    scale: float

    def gather(self, tables: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at positions [R, L] of the sequences with block tables [R, B] → two [R, Hkv, L, D]."""
        blocks = tables.gather(1, positions // self.block_size)
        slots = (blocks * self.block_size + positions % self.block_size).flatten()
        keys, values = (
            flat.index_select(0, slots).view(*positions.shape, *flat.shape[1:]).float().transpose(1, 2)
            for flat in (self.keys, self.values)
        )
        return keys, values


def _padded(keys: int) -> int:
    """The next power of two, at least 32: a row's shapes follow from its own length, whatever stands beside it."""
    return max(32, 1 << (keys - 1).bit_length())


def _decode(q: Tensor, cache: _Cache, rows: Tensor, lengths: Tensor, padded: int, window: int | None) -> Tensor:
    """One query for each of R sequences: q [R, Hq, D] → [R, Hq, D]."""
    keys = lengths if window is None else lengths.clamp(max=window)
    offsets = torch.arange(padded, device=q.device)
    # Past its end a sequence reads its own last key again (masked below): what another one left in a block, a NaN
    # even, must not reach it.
    positions = torch.minimum((lengths - keys)[:, None] + offsets, (lengths - 1)[:, None])
    k, v = cache.gather(cache.block_tables[rows], positions)
    # The query heads that share a key head stand as its queries, so that keys need no repeating.
    grouped = q.float().view(len(q), k.shape[1], -1, q.shape[-1])
    mask = (offsets < keys[:, None])[:, None, None, :]
    return functional.scaled_dot_product_attention(grouped, k, v, mask, scale=cache.scale).flatten(1, 2).to(q.dtype)


def _prefill(q: Tensor, cache: _Cache, row: int, length: int, window: int | None) -> Tensor:
    """The last queries of one sequence: q [N, Hq, D] → [N, Hq, D]."""
    context = length - q.shape[0]
    first = 0 if window is None else max(0, context - window + 1)
    positions = torch.arange(first, length, device=q.device)
    k, v = cache.gather(cache.block_tables[row : row + 1], positions[None])
    distance = positions[context - first :, None] - positions
    mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    heads_first = q.float().transpose(0, 1)[None]
    out = functional.scaled_dot_product_attention(heads_first, k, v, mask, scale=cache.scale, enable_gqa=True)
    return out[0].transpose(0, 1).to(q.dtype)


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[PagedAttentionSpec]]:
    mixed = ([1, 5, 1, 17, 1, 2], [1, 5, 40, 33, 130, 70])
    decode = ([1] * 5, [1, 31, 32, 33, 200])
    for (queries, lengths), heads, kv_heads, head_dim, block_size, window in [
        (mixed, 8, 2, 32, 16, None),
        (mixed, 4, 4, 20, 4, 7),
        (decode, 8, 2, 32, 16, None),
        (decode, 6, 1, 64, 8, 33),
    ]:
        seq_lens = torch.tensor(lengths, dtype=torch.int32)
        blocks = [-(-length // block_size) for length in lengths]
        caches = torch.randn(2, sum(blocks) + 2, block_size, kv_heads, head_dim, generator=generator).to(dtype)
        caches[:, 0] = torch.nan  # A block of nobody's: tables are padded with it, and nothing may come of it.
        shuffled = 1 + torch.randperm(sum(blocks) + 1, generator=generator).int()
        tables = torch.zeros(len(lengths), max(blocks), dtype=torch.int32)
        for row, ids in enumerate(torch.split(shuffled[: sum(blocks)], blocks)):
            tables[row, : len(ids)] = ids
        starts = torch.tensor([0, *queries]).cumsum(0).int()
        q = torch.randn(sum(queries), heads, head_dim, generator=generator).to(dtype)
        yield Example(
            PagedAttentionSpec(heads, kv_heads, head_dim, block_size, window is not None, dtype),
            (q, caches[0], caches[1], tables, starts, seq_lens),
            {
                "max_query_len": max(queries),
                "max_seq_len": max(lengths),
                "scale": head_dim**-0.5,
                "sliding_window": window,
            },
        )


OP: Op[PagedAttention, PagedAttentionSpec] = Op(
    name="paged_attention",
    reference=paged_attention,
    tolerances={
        torch.float32: Tolerance(1e-5, 1e-5),
        torch.bfloat16: Tolerance(2e-2, 2e-2),
        torch.float16: Tolerance(2e-3, 2e-3),
    },
    examples=_examples,
)
