"""Paged attention by ``native/attention.c``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.ops.paged_attention import PagedAttention, PagedAttentionSpec
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import available, load
from kernels.providers.cpu.rope_and_cache import CACHE_DTYPES, Cache, Scales
from kernels.registry import Machine, Provider

SPLIT = 512
"""Keys that one thread takes at most where a few long sequences are shared by all threads, as in the source."""
SPLIT_TOKENS = 8
"""Queries that there is memory to do that for; with more of them there is work for every thread anyway."""


class _PagedAttention(ctypes.Structure):
    _fields_ = [
        ("q", ctypes.c_void_p),
        ("keys", Cache),
        ("values", Cache),
        ("key_scales", Scales),
        ("value_scales", Scales),
        ("tables", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("partials", ctypes.c_void_p),
        ("q_token", ctypes.c_int64),
        ("q_head", ctypes.c_int64),
        ("table_stride", ctypes.c_int64),
        ("partial_rows", ctypes.c_int64),
        ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("cache_dtype", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("soft_cap", ctypes.c_float),
    ]


class NativePagedAttention:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("paged_attention")

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
        """Lengths come from the tensors alone: what is recorded is replayed with others."""
        if q.dtype != torch.float32 or q.stride(2) != 1:
            raise ValueError(f"q of {q.dtype} with strides {q.stride()}: float32 with a contiguous last dimension fits")
        if any(each.dtype != torch.int32 for each in (block_tables, query_start_loc, seq_lens)):
            raise ValueError("block tables, starts and lengths are int32")
        if block_tables.stride(1) != 1 or not (query_start_loc.is_contiguous() and seq_lens.is_contiguous()):
            raise ValueError("block tables have contiguous rows, starts and lengths are contiguous")
        if alibi_slopes is not None and not (alibi_slopes.dtype == torch.float32 and alibi_slopes.is_contiguous()):
            raise ValueError("slopes are contiguous float32")
        tokens, heads, head_dim = q.shape
        block_size, kv_heads = k_cache.shape[1:3]
        out = self._library.empty((tokens, heads, head_dim))
        splits = -(-block_tables.shape[1] * block_size // SPLIT) + 1
        partial_rows = min(tokens, SPLIT_TOKENS) * heads * splits
        partials = self._library.empty((partial_rows, -(-head_dim // 16) * 16 + 2))
        arguments = _PagedAttention(
            q.data_ptr(),
            Cache.of(k_cache),
            Cache.of(v_cache),
            Scales.of(k_cache, k_scales),
            Scales.of(v_cache, v_scales),
            block_tables.data_ptr(),
            query_start_loc.data_ptr(),
            seq_lens.data_ptr(),
            None if alibi_slopes is None else alibi_slopes.data_ptr(),
            out.data_ptr(),
            partials.data_ptr(),
            *q.stride()[:2],
            block_tables.stride(0),
            partial_rows,
            heads,
            kv_heads,
            head_dim,
            block_size,
            CACHE_DTYPES[k_cache.dtype],
            sliding_window or 0,
            scale,
            soft_cap or 0.0,
        )
        tensors = [q, k_cache, v_cache, block_tables, query_start_loc, seq_lens, out, partials]
        tensors += [each for each in (alibi_slopes, k_scales, v_scales) if each is not None]
        self._library.launch(self._kernel, arguments, tuple(tensors), tokens, len(seq_lens))
        return out


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: PagedAttentionSpec) -> bool:
    return spec.dtype == torch.float32 and spec.cache_dtype in CACHE_DTYPES


PROVIDER: Provider[PagedAttention, PagedAttentionSpec] = Provider(
    name="cpu",
    version="1",
    priority=20,
    supported=_supported,
    accepts=_accepts,
    load=lambda: NativePagedAttention(load()),
)
