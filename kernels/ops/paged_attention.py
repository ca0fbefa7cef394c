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

from kernels.kv_formats import FP8, as_bytes, cache_dtypes, has_scales, read, stored
from kernels.ops.rope_and_cache import transposed
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
        alibi_slopes: Tensor | None = None,
        soft_cap: float | None = None,
        k_scales: Tensor | None = None,
        v_scales: Tensor | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class PagedAttentionSpec:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    sliding_window: bool
    dtype: torch.dtype
    """Of q."""
    cache_dtype: torch.dtype
    alibi: bool = False
    soft_cap: bool = False


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
    alibi_slopes: Tensor | None = None,
    soft_cap: float | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
) -> Tensor:
    """Attention output [T, Hq, D] in the dtype of q; products and softmax in float32.

    q [T, Hq, D]; caches [num_blocks, block_size, Hkv, D] of any strides, the step's own keys and values already in
    them; k_scales and v_scales [num_blocks, block_size, Hkv] float32 of any strides, where the caches are of int8 (see
    ``kernels.kv_formats``); block_tables [S, max_blocks] int32; query_start_loc [S + 1] int32, where each sequence's
    queries begin in q; seq_lens [S] int32, keys of each sequence, its queries' own included; max_query_len and
    max_seq_len, the greatest of each, for providers that size their launch by them. A query sees the keys at and before
    its position, with a sliding window only the last ``sliding_window`` of those. Layers of a step that compute the
    same rows are given the very same tensors block_tables, query_start_loc and seq_lens, and no other step is
    (``kernels.per_step``).

    A score is q·k * scale; with ``soft_cap`` (Gemma 2) it becomes soft_cap * tanh(score / soft_cap); with
    ``alibi_slopes`` [Hq] float32 (Press et al. 2022) slope * (key position - query position) is added after that.

    Sequences with one query are computed together, grouped by a length that depends on the sequence alone; the others
    one at a time.
    """
    starts, lengths = query_start_loc.tolist(), seq_lens.tolist()
    cache = _Cache((k_cache, k_scales), (v_cache, v_scales), block_tables)
    scores = _Scores(scale, sliding_window, alibi_slopes, soft_cap)
    out = torch.empty_like(q)
    single: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        start, stop = starts[row], starts[row + 1]
        if stop - start == 1:
            keys = length if sliding_window is None else min(length, sliding_window)
            single.setdefault(_padded(keys), []).append(row)
        else:
            out[start:stop] = _prefill(q[start:stop], cache, scores, row, length)
    for padded, rows in single.items():
        index = torch.tensor(rows, device=q.device)
        tokens = query_start_loc[index].long()
        out[tokens] = _decode(q[tokens], cache, scores, index, seq_lens[index].long(), padded)
    return out


@dataclass(frozen=True, slots=True)
class _Cache:
    keys: tuple[Tensor, Tensor | None]
    """And their scales."""
    values: tuple[Tensor, Tensor | None]
    block_tables: Tensor

    def gather(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at positions [R, L] of R sequences → two [R, Hkv, L, D]."""
        block_size = self.keys[0].shape[1]
        place = self.block_tables[rows].gather(1, positions // block_size).long(), positions % block_size
        keys, values = (
            read(as_bytes(cache)[place].view(cache.dtype), None if scales is None else scales[place]).transpose(1, 2)
            for cache, scales in (self.keys, self.values)
        )
        return keys, values


@dataclass(frozen=True, slots=True)
class _Scores:
    scale: float
    window: int | None
    slopes: Tensor | None
    soft_cap: float | None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, distance: Tensor, valid: Tensor | None = None) -> Tensor:
        """q [R, Hq, N, D]; k, v [R, Hkv, L, D]; distance [R, N, L], how far each query stands behind each key;
        valid [R, N, L], False where a place holds no key → [R, Hq, N, D]."""
        mask = distance >= 0 if self.window is None else (distance >= 0) & (distance < self.window)
        if valid is not None:
            mask = mask & valid
        mask = mask[:, None]
        if self.slopes is not None:
            bias = -self.slopes[:, None, None] * distance[:, None]
            mask = bias.masked_fill(~mask, -torch.inf)
        if self.soft_cap is None:
            return functional.scaled_dot_product_attention(q, k, v, mask, scale=self.scale, enable_gqa=True)
        k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
        scores = self.soft_cap * torch.tanh(q @ k.mT * self.scale / self.soft_cap)
        scores = scores.masked_fill(~mask, -torch.inf) if self.slopes is None else scores + mask
        return scores.softmax(-1) @ v


def _padded(keys: int) -> int:
    """The next power of two, at least 32: a row's shapes follow from its own length, whatever stands beside it."""
    return max(32, 1 << (keys - 1).bit_length())


def _decode(q: Tensor, cache: _Cache, scores: _Scores, rows: Tensor, lengths: Tensor, padded: int) -> Tensor:
    """One query for each of R sequences: q [R, Hq, D] → [R, Hq, D]."""
    keys = lengths if scores.window is None else lengths.clamp(max=scores.window)
    offsets = torch.arange(padded, device=q.device)
    # Past its end a sequence reads its own last key again (masked): what another one left in a block, a NaN even, must
    # not reach it.
    positions = torch.minimum((lengths - keys)[:, None] + offsets, (lengths - 1)[:, None])
    k, v = cache.gather(rows, positions)
    distance = (lengths - 1)[:, None] - positions
    valid = offsets < keys[:, None]
    return scores.attend(q.float()[:, :, None], k, v, distance[:, None], valid[:, None])[:, :, 0].to(q.dtype)


def _prefill(q: Tensor, cache: _Cache, scores: _Scores, row: int, length: int) -> Tensor:
    """The last queries of one sequence: q [N, Hq, D] → [N, Hq, D]."""
    context = length - q.shape[0]
    first = 0 if scores.window is None else max(0, context - scores.window + 1)
    positions = torch.arange(first, length, device=q.device)
    k, v = cache.gather(torch.tensor([row], device=q.device), positions[None])
    distance = positions[context - first :, None] - positions
    heads_first = q.float().transpose(0, 1)[None]
    return scores.attend(heads_first, k, v, distance[None])[0].transpose(0, 1).to(q.dtype)


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[PagedAttentionSpec]]:
    mixed = ([1, 5, 1, 17, 1, 2], [1, 5, 40, 33, 130, 70])
    decode = ([1] * 5, [1, 31, 32, 33, 200])
    long = ([1, 3, 70, 1], [513, 700, 1100, 1025])
    shapes: list[tuple[tuple[list[int], list[int]], int, int, int, int, int | None, bool, float | None]] = [
        (mixed, 8, 2, 32, 16, None, False, None),
        (mixed, 4, 4, 20, 4, 7, False, None),
        (mixed, 6, 3, 24, 16, None, True, None),
        (mixed, 8, 1, 48, 12, 19, True, 3.0),
        (decode, 8, 2, 32, 16, None, False, None),
        (decode, 6, 1, 64, 8, 33, False, None),
        (decode, 6, 6, 48, 32, None, False, 5.0),
        (long, 7, 1, 80, 16, None, False, None),
        (long, 2, 2, 128, 16, 600, False, None),
    ]
    for number, shape in enumerate(shapes):
        (queries, lengths), heads, kv_heads, head_dim, block_size, window, alibi, soft_cap = shape
        # Those of 8 bits in turns.
        for cache_dtype in (each for each in cache_dtypes(dtype) if each != (torch.int8, FP8)[number % 2]):
            seq_lens = torch.tensor(lengths, dtype=torch.int32)
            blocks = [-(-length // block_size) for length in lengths]
            size = (2, sum(blocks) + 2, block_size, kv_heads, head_dim)
            k_cache, v_cache = torch.randn(size, generator=generator)
            k_cache[0] = v_cache[0] = torch.nan  # A block of nobody's: tables are padded with it.
            shuffled = 1 + torch.randperm(sum(blocks) + 1, generator=generator).int()
            tables = torch.zeros(len(lengths), max(blocks), dtype=torch.int32)
            for row, ids in enumerate(torch.split(shuffled[: sum(blocks)], blocks)):
                tables[row, : len(ids)] = ids
                unused = len(ids) * block_size - lengths[row]
                k_cache[ids[-1], block_size - unused :] = torch.nan  # Left there by another sequence.
                v_cache[ids[-1], block_size - unused :] = torch.nan
            starts = torch.tensor([0, *queries]).cumsum(0).int()
            q = torch.randn(sum(queries), heads, head_dim, generator=generator).to(dtype)
            (k_cache, k_scales), (v_cache, v_scales) = (stored(each, cache_dtype) for each in (k_cache, v_cache))
            if not (alibi or window):  # Otherwise as torch would have it.
                k_cache, v_cache = transposed(k_cache), heads_first(v_cache)
                k_scales, v_scales = (each if each is None else heads_first(each) for each in (k_scales, v_scales))
            yield Example(
                PagedAttentionSpec(
                    heads, kv_heads, head_dim, block_size, window is not None, dtype, cache_dtype, alibi, bool(soft_cap)
                ),
                (q, k_cache, v_cache, tables, starts, seq_lens),
                {
                    "max_query_len": max(queries),
                    "max_seq_len": max(lengths),
                    "scale": head_dim**-0.5,
                    "sliding_window": window,
                    "alibi_slopes": 2.0 ** -torch.arange(1, heads + 1) if alibi else None,
                    "soft_cap": soft_cap,
                    **({"k_scales": k_scales, "v_scales": v_scales} if has_scales(cache_dtype) else {}),
                },
            )


def heads_first(cache: Tensor) -> Tensor:
    """An equal cache, or its scales, whose memory is in the order (block, head, offset), as the engine's on a CPU."""
    return cache.transpose(1, 2).contiguous().transpose(1, 2)


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
