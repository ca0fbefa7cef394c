"""Attention over the paged cache by ``device/attention.py``: flash decoding for single queries, tiles for more."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.paged_attention import PagedAttention, PagedAttentionSpec
from kernels.providers.triton import interpreted, on_amd, supported
from kernels.registry import Provider

SPLIT = 256
"""Keys of a split. It never depends on the batch: a sequence's sums are the same beside any other."""
LEAST_ROWS = 16
"""Of a matrix product on a GPU's tensor cores."""
PROMPT_ROWS = 64
LARGEST_HEAD = 256
LARGE_TILE = 64 * 128
"""Numbers of a tile that four warps have too few registers for on AMD's GPUs."""


class TritonPagedAttention:
    def __init__(self, *, one_tile: bool = False) -> None:
        """``one_tile``: tiles of one height for prompts as for decoding, so that both compute the same bits."""
        from kernels.providers.triton.device import attention

        self._device = attention
        self._one_tile = one_tile

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
    ) -> Tensor:
        if k_scales is not None or v_scales is not None:
            raise ValueError("a cache with scales is none of its formats")
        if q.stride(2) != 1 or block_tables.stride(1) != 1:
            raise ValueError("queries must have contiguous heads, and block tables contiguous rows")
        heads, head_dim = q.shape[1:]
        kv_heads, block_size = k_cache.shape[2], k_cache.shape[1]
        group, sequences = heads // kv_heads, len(seq_lens)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        rows = max(LEAST_ROWS, _power(group))
        head = max(16, _power(head_dim))
        strides = (*q.stride()[:2], *k_cache.stride(), *v_cache.stride(), block_tables.stride(0))
        shapes = (block_size, head_dim, scale, sliding_window or 0, soft_cap or 0.0)
        options = {
            "WINDOW": sliding_window is not None,
            "ALIBI": alibi_slopes is not None,
            "SOFT_CAP": soft_cap is not None,
            "GROUP": group,
            "KEYS": _keys(head, q.dtype),
            "SPLIT": SPLIT,
            "HEAD": head,
            # Its product of bfloat16 matrices is wrong.
            "WIDEN": interpreted(),
            # With tiles of one height, what one program does and what several do is to round alike.
            "enable_fp_fusion": not self._one_tile,
        }
        slopes = q if alibi_slopes is None else alibi_slopes
        if max_query_len == 1:
            splits = -(-max_seq_len // SPLIT)
            partial = (sequences, kv_heads, splits, rows)
            peaks, totals = torch.empty((2, *partial), dtype=torch.float32, device=q.device)
            parts = torch.empty((*partial, head), dtype=torch.float32, device=q.device)
            self._device.attend_split[(sequences, kv_heads, splits)](
                q, k_cache, v_cache, block_tables, seq_lens, slopes, peaks, totals, parts, *strides, *shapes,
                ROWS=rows, num_warps=4, **options,
            )  # fmt: skip
            self._device.merge_splits[(sequences, kv_heads)](
                peaks, totals, parts, seq_lens, out, *out.stride()[:2], splits, head_dim, sliding_window or 0,
                WINDOW=sliding_window is not None, GROUP=group, ROWS=rows, SPLIT=SPLIT, HEAD=head, num_warps=4,
                enable_fp_fusion=not self._one_tile,
            )  # fmt: skip
            return out
        if not self._one_tile:
            rows = max(rows, PROMPT_ROWS // 2 if q.dtype == torch.float32 else PROMPT_ROWS)
        tiles = len(q) // (rows // group) + sequences
        self._device.attend[(tiles, kv_heads)](
            q, k_cache, v_cache, block_tables, query_start_loc, seq_lens, slopes, out, *strides, *out.stride()[:2],
            sequences, *shapes, ROWS=rows, num_warps=8 if on_amd() and rows * head >= LARGE_TILE else 4, **options,
        )  # fmt: skip
        return out


def _power(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << (number - 1).bit_length()


def _keys(head: int, dtype: torch.dtype) -> int:
    """Keys of a tile. On AMD's GPUs a warp holds the address of each in scalar registers, of which it has a hundred."""
    if on_amd():
        return 16
    return 32 if head > 128 or dtype == torch.float32 else 64


def _accepts(spec: PagedAttentionSpec) -> bool:
    return spec.head_dim <= LARGEST_HEAD and spec.cache_dtype.itemsize > 1


PROVIDER: Provider[PagedAttention, PagedAttentionSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonPagedAttention
)
