"""Paged attention of prompts by FlashInfer's ``BatchPrefillWithPagedKVCacheWrapper``.

It reads our cache as it lies on a GPU, [num_blocks, block_size, Hkv, D], which it calls NHD; block tables become its
list of pages, once a step. That and its plan are made on the host, where nothing can be captured into a CUDA graph, so
steps in which every sequence has one query are computed by the kernels in Triton.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kernels import installed
from kernels.ops.paged_attention import PagedAttention, PagedAttentionSpec
from kernels.per_step import PerStep
from kernels.providers import triton
from kernels.providers.flashinfer import PACKAGE
from kernels.providers.triton.paged_attention import TritonPagedAttention
from kernels.registry import Machine, Provider

HEADS = (64, 128, 256)
"""Sizes that its kernels have."""
WORKSPACE = 128 << 20
"""Bytes for parts of sums: what its documentation recommends."""
WRAPPER = "BatchPrefillWithPagedKVCacheWrapper"
MADE_WITH = ("float_workspace_buffer", "kv_layout")
PLANNED_WITH = (
    "qo_indptr", "paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len", "num_qo_heads", "num_kv_heads",
    "head_dim_qk", "page_size", "causal", "sm_scale", "window_left", "logits_soft_cap", "q_data_type", "kv_data_type",
)  # fmt: skip
RUN_WITH = ("q", "paged_kv_cache")


class Shape(NamedTuple):
    """Of a layer: all that a plan depends on beside the step."""

    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    scale: float
    sliding_window: int | None
    soft_cap: float | None
    dtype: torch.dtype


class Pages(NamedTuple):
    """The step, in FlashInfer's terms."""

    queries: Tensor
    """[S + 1] int32 on the host: where each sequence's queries begin."""
    starts: Tensor
    """[S + 1] int32 on the host: where each sequence's pages begin in ``indices``."""
    indices: Tensor
    """[pages] int32 on the device."""
    in_last: Tensor
    """[S] int32 on the host: tokens of each sequence in its last page."""


class FlashInferAttention:
    def __init__(self, single: PagedAttention) -> None:
        """``single`` computes steps in which every sequence has one query."""
        self._wrapper = installed.call(PACKAGE, WRAPPER, MADE_WITH)
        installed.call(PACKAGE, f"{WRAPPER}.plan", PLANNED_WITH)
        installed.call(PACKAGE, f"{WRAPPER}.run", RUN_WITH)
        self._single = single
        self._wrappers: dict[Shape, Any] = {}
        self._workspace: Tensor | None = None
        self._pages: PerStep[Pages] = PerStep()
        self._planned: PerStep[Any] = PerStep()

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
        if alibi_slopes is not None:
            raise ValueError("FlashInfer has ALiBi with slopes of its own alone")
        if max_query_len == 1:
            return self._single(
                q, k_cache, v_cache, block_tables, query_start_loc, seq_lens, max_query_len=1, max_seq_len=max_seq_len,
                scale=scale, sliding_window=sliding_window, soft_cap=soft_cap,
            )  # fmt: skip
        if any(each.stride(-1) != 1 for each in (q, k_cache, v_cache)):
            raise ValueError("queries, keys and values must have contiguous heads, as they have on a GPU")
        block_size, kv_heads = k_cache.shape[1:3]
        shape = Shape(q.shape[1], kv_heads, q.shape[2], block_size, scale, sliding_window, soft_cap, q.dtype)
        step = (block_tables, query_start_loc, seq_lens)
        pages = self._pages.get(step, lambda: _pages(*step, block_size))
        wrapper = self._planned.get(step, lambda: self._plan(shape, pages, q.device), shape)
        out: Tensor = wrapper.run(q=q, paged_kv_cache=(k_cache, v_cache))
        return out

    def _plan(self, shape: Shape, pages: Pages, device: torch.device) -> Any:
        """A wrapper that is ready for layers of this shape in this step."""
        if self._workspace is None:
            self._workspace = torch.zeros(WORKSPACE, dtype=torch.uint8, device=device)
        if shape not in self._wrappers:
            self._wrappers[shape] = self._wrapper(float_workspace_buffer=self._workspace, kv_layout="NHD")
        wrapper = self._wrappers[shape]
        wrapper.plan(
            qo_indptr=pages.queries,
            paged_kv_indptr=pages.starts,
            paged_kv_indices=pages.indices,
            paged_kv_last_page_len=pages.in_last,
            num_qo_heads=shape.heads,
            num_kv_heads=shape.kv_heads,
            head_dim_qk=shape.head_dim,
            page_size=shape.block_size,
            causal=True,
            sm_scale=shape.scale,
            # How far back a query sees beside itself; -1 for all.
            window_left=-1 if shape.sliding_window is None else shape.sliding_window - 1,
            logits_soft_cap=shape.soft_cap or 0.0,
            q_data_type=shape.dtype,
            kv_data_type=shape.dtype,
        )
        return wrapper


def _pages(block_tables: Tensor, query_start_loc: Tensor, seq_lens: Tensor, block_size: int) -> Pages:
    """Waits for the device: lengths are needed on the host."""
    lengths, device = seq_lens.cpu(), block_tables.device
    blocks = -(-lengths // block_size)
    starts = functional.pad(blocks.cumsum(0, dtype=torch.int32), (1, 0))
    row = torch.repeat_interleave(blocks.long())
    column = torch.arange(len(row)) - starts[row]
    indices = block_tables[row.to(device), column.to(device)]
    return Pages(query_start_loc.cpu(), starts, indices, lengths - (blocks - 1) * block_size)


def _supported(machine: Machine) -> bool:
    return triton.supported(machine) and installed.on_an_nvidia_gpu(PACKAGE, machine, 80)


def _accepts(spec: PagedAttentionSpec) -> bool:
    narrow = spec.dtype == spec.cache_dtype and spec.dtype in (torch.float16, torch.bfloat16)
    return narrow and spec.head_dim in HEADS and not spec.alibi


PROVIDER: Provider[PagedAttention, PagedAttentionSpec] = Provider(
    name="flashinfer",
    version="1",
    priority=22,
    supported=_supported,
    accepts=_accepts,
    load=lambda: FlashInferAttention(TritonPagedAttention()),
)
