"""Attention over the paged cache by ``device/attention.py``: flash decoding for single queries, tiles for more."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops.paged_attention import PagedAttention, PagedAttentionSpec
from kernels.providers.triton import interpreted, on_amd, supported
from kernels.providers.triton.held import Held
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
        # With tiles of one height, what one program does and what several do is to round alike.
        self._fusion = {"enable_fp_fusion": not one_tile}

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
        if q.stride(2) != 1 or block_tables.stride(1) != 1:
            raise ValueError("queries must have contiguous heads, and block tables contiguous rows")
        heads, head_dim = q.shape[1:]
        kv_heads, block_size = k_cache.shape[2], k_cache.shape[1]
        group, sequences = heads // kv_heads, len(seq_lens)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        rows = max(LEAST_ROWS, _power(group))
        head = max(16, _power(head_dim))
        held = Held.of(k_cache, v_cache, k_scales, v_scales)
        cache = (held.keys, held.values, held.key_scales, held.value_scales)
        strides = (*q.stride()[:2], *k_cache.stride(), *v_cache.stride(), *held.scale_strides, block_tables.stride(0))
        shapes = (block_size, head_dim, scale, sliding_window or 0, soft_cap or 0.0)
        kinds = {
            "WINDOW": sliding_window is not None,
            "ALIBI": alibi_slopes is not None,
            "SOFT_CAP": soft_cap is not None,
        }
        sizes = {"GROUP": group, "SPLIT": SPLIT, "HEAD": head}
        # In the interpreter the product of bfloat16 matrices is wrong.
        options = {**kinds, **sizes, **self._fusion, "FORMAT": held.format, "WIDEN": interpreted()}
        slopes = q if alibi_slopes is None else alibi_slopes
        if max_query_len == 1:
            splits = -(-max_seq_len // SPLIT)
            partial = (sequences, kv_heads, splits, rows)
            peaks, totals = torch.empty((2, *partial), dtype=torch.float32, device=q.device)
            parts = torch.empty((*partial, head), dtype=torch.float32, device=q.device)
            self._device.attend_split[(sequences, kv_heads, splits)](
                q, *cache, block_tables, seq_lens, slopes, peaks, totals, parts, *strides, *shapes,
                ROWS=rows, KEYS=_keys(head, q.dtype), num_warps=4, **options,
            )  # fmt: skip
            self._device.merge_splits[(sequences, kv_heads)](
                peaks, totals, parts, seq_lens, out, *out.stride()[:2], splits, head_dim, sliding_window or 0,
                WINDOW=sliding_window is not None, ROWS=rows, num_warps=4, **sizes, **self._fusion,
            )  # fmt: skip
            return out
        rows, keys, warps = self._tile_of_prompts(rows, head, q.dtype, k_cache.dtype)
        tiles = len(q) // (rows // group) + sequences
        self._device.attend[(tiles, kv_heads)](
            q, *cache, block_tables, query_start_loc, seq_lens, slopes, out, *strides, *out.stride()[:2],
            sequences, *shapes, ROWS=rows, KEYS=keys, num_warps=warps, **options,
        )  # fmt: skip
        return out

    def _tile_of_prompts(
        self, rows: int, head: int, dtype: torch.dtype, cache_dtype: torch.dtype
    ) -> tuple[int, int, int]:
        """(rows, keys, warps), where a tile of decoding has ``rows``."""
        keys = _keys(head, dtype)
        if self._one_tile:
            return rows, keys, 4
        rows = max(rows, PROMPT_ROWS // 2 if dtype == torch.float32 else PROMPT_ROWS)
        if cache_dtype.itemsize == 1:
            # Keys that are widened take registers of their own.
            return rows, min(32, keys), 8
        return rows, keys, 8 if on_amd() and rows * head >= LARGE_TILE else 4


def _power(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << (number - 1).bit_length()


def _keys(head: int, dtype: torch.dtype) -> int:
    """Keys of a tile. On AMD's GPUs a warp holds the address of each in scalar registers, of which it has a hundred."""
    if on_amd():
        return 16
    return 32 if head > 128 or dtype == torch.float32 else 64


def _accepts(spec: PagedAttentionSpec) -> bool:
    return spec.head_dim <= LARGEST_HEAD


PROVIDER: Provider[PagedAttention, PagedAttentionSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonPagedAttention
)
