"""Paged attention by flash-attn 2: ``flash_attn_with_kvcache`` for single queries, ``flash_attn_varlen_func`` for more.

It reads our cache as it lies on a GPU, [num_blocks, block_size, Hkv, D], and our block tables. Blocks must have a
multiple of 256 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels import installed
from kernels.ops.paged_attention import PagedAttention, PagedAttentionSpec
from kernels.per_step import PerStep
from kernels.providers.flash_attn import PACKAGE
from kernels.registry import Machine, Provider

BLOCK = 256
LARGEST_HEAD = 256
COMMON = ("q", "softmax_scale", "causal", "window_size", "softcap", "alibi_slopes", "block_table")
SINGLE = (*COMMON, "k_cache", "v_cache", "cache_seqlens")
PACKED = (*COMMON, "k", "v", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")


class FlashAttention:
    def __init__(self) -> None:
        self._single = installed.call(PACKAGE, "flash_attn_with_kvcache", SINGLE)
        self._packed = installed.call(PACKAGE, "flash_attn_varlen_func", PACKED)
        self._starts: PerStep[Tensor] = PerStep()

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
        if any(each.stride(-1) != 1 for each in (q, k_cache, v_cache)):
            raise ValueError("queries, keys and values must have contiguous heads, as they have on a GPU")
        common: dict[str, Any] = {
            "softmax_scale": scale,
            "causal": True,
            # How far back a query sees beside itself; -1 for all.
            "window_size": (-1 if sliding_window is None else sliding_window - 1, 0),
            "softcap": soft_cap or 0.0,
            "alibi_slopes": alibi_slopes,
            "block_table": block_tables,
        }
        out: Tensor
        if max_query_len == 1:
            out = self._single(q=q[:, None], k_cache=k_cache, v_cache=v_cache, cache_seqlens=seq_lens, **common)
            return out[:, 0]
        out = self._packed(
            q=q,
            k=k_cache,
            v=v_cache,
            cu_seqlens_q=query_start_loc,
            cu_seqlens_k=self._starts.get((seq_lens,), lambda: _starts(seq_lens)),
            max_seqlen_q=max_query_len,
            max_seqlen_k=max_seq_len,
            **common,
        )
        return out


def _starts(lengths: Tensor) -> Tensor:
    """[S] int32 → [S + 1] int32, where each would begin if they lay one after the other."""
    return functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def _supported(machine: Machine) -> bool:
    return installed.on_an_nvidia_gpu(PACKAGE, machine, 80)


def _accepts(spec: PagedAttentionSpec) -> bool:
    narrow = spec.dtype == spec.cache_dtype and spec.dtype in (torch.float16, torch.bfloat16)
    return narrow and spec.block_size % BLOCK == 0 and spec.head_dim % 8 == 0 and spec.head_dim <= LARGEST_HEAD


PROVIDER: Provider[PagedAttention, PagedAttentionSpec] = Provider(
    name="flash-attn", version="1", priority=24, supported=_supported, accepts=_accepts, load=FlashAttention
)
