"""In place of FlashInfer 0.6: the wrapper's signatures, what it wants of their arguments, and plain attention."""

from typing import Any

import torch
from plain_attention import attend, gather

__version__ = "0.6.18"
calls = []


class BatchPrefillWithPagedKVCacheWrapper:
    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: torch.Tensor | None = None,
        paged_kv_indptr_buf: torch.Tensor | None = None,
        paged_kv_indices_buf: torch.Tensor | None = None,
        paged_kv_last_page_len_buf: torch.Tensor | None = None,
        custom_mask_buf: torch.Tensor | None = None,
        mask_indptr_buf: torch.Tensor | None = None,
        backend: str = "auto",
        jit_args: list[Any] | None = None,
        jit_kwargs: dict[str, Any] | None = None,
    ) -> None:
        calls.append("made")
        assert float_workspace_buffer.dtype == torch.uint8 and float_workspace_buffer.data_ptr() % 16 == 0
        assert (kv_layout, use_cuda_graph, backend) == ("NHD", False, "auto")
        self._device = float_workspace_buffer.device

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        head_dim_vo: int | None = None,
        custom_mask: torch.Tensor | None = None,
        packed_custom_mask: torch.Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: str | torch.dtype = "float16",
        kv_data_type: str | torch.dtype | None = None,
        o_data_type: str | torch.dtype | None = None,
        non_blocking: bool = True,
        prefix_len_ptr: torch.Tensor | None = None,
        token_pos_in_items_ptr: torch.Tensor | None = None,
        token_pos_in_items_len: int = 0,
        max_item_len_ptr: torch.Tensor | None = None,
        seq_lens: torch.Tensor | None = None,
        seq_lens_q: torch.Tensor | None = None,
        block_tables: torch.Tensor | None = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
    ) -> None:
        calls.append("planned")
        sequences = len(qo_indptr) - 1
        for each in (qo_indptr, paged_kv_indptr, paged_kv_last_page_len, paged_kv_indices):
            assert each.dtype == torch.int32 and each.dim() == 1
        for each in (qo_indptr, paged_kv_indptr, paged_kv_last_page_len):
            assert each.device.type == "cpu", "a plan is made on the host"
        assert paged_kv_indices.device == self._device
        assert len(paged_kv_indptr) == sequences + 1 and len(paged_kv_last_page_len) == sequences
        assert paged_kv_indptr[-1] == len(paged_kv_indices)
        assert paged_kv_last_page_len.min() >= 1 and paged_kv_last_page_len.max() <= page_size
        assert num_qo_heads % num_kv_heads == 0 and head_dim_qk in (64, 128, 256) and head_dim_vo is None
        assert causal is True and pos_encoding_mode == "NONE" and custom_mask is None and packed_custom_mask is None
        assert q_data_type == kv_data_type and q_data_type in (torch.float16, torch.bfloat16)
        self._queries, self._pages = qo_indptr, paged_kv_indices.split(paged_kv_indptr.diff().tolist())
        self._lengths = [
            (len(pages) - 1) * page_size + last
            for pages, last in zip(self._pages, paged_kv_last_page_len.tolist(), strict=True)
        ]
        self._query, self._page = (num_qo_heads, head_dim_qk), (page_size, num_kv_heads, head_dim_qk)
        self._dtype = q_data_type
        self._seen = {"scale": sm_scale, "left": window_left, "soft_cap": logits_soft_cap or 0.0}

    def run(
        self,
        q: torch.Tensor,
        paged_kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        *args,
        q_scale: float | torch.Tensor | None = None,
        k_scale: float | torch.Tensor | None = None,
        v_scale: float | torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: torch.Tensor | None = None,
        kv_cache_sf: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
        skip_softmax_threshold_scale_factor: float | None = None,
        use_fp16_softmax: bool | None = None,
        uses_spcompress: bool | None = None,
    ) -> torch.Tensor:
        calls.append("run")
        assert not args and isinstance(paged_kv_cache, tuple)
        keys, values = paged_kv_cache
        assert q.dtype == keys.dtype == values.dtype == self._dtype
        assert q.shape == (self._queries[-1], *self._query)
        assert keys.shape[1:] == values.shape[1:] == self._page and keys.stride() == values.stride()
        assert q.stride(-1) == keys.stride(-1) == 1
        parts = []
        for row, part in enumerate(q.split(self._queries.diff().tolist())):
            held = [gather(cache, self._pages[row], self._lengths[row]) for cache in paged_kv_cache]
            parts.append(attend(part, *held, **self._seen))
        return torch.cat(parts)
