"""Attention whose tiles of prompts are as high as those of decoding, so that both sum alike."""

from __future__ import annotations

from kernels.ops.paged_attention import PagedAttention, PagedAttentionSpec
from kernels.providers.triton.paged_attention import LARGEST_HEAD, TritonPagedAttention
from kernels.providers.triton_invariant import supported
from kernels.registry import Provider


def _accepts(spec: PagedAttentionSpec) -> bool:
    return spec.head_dim <= LARGEST_HEAD


PROVIDER: Provider[PagedAttention, PagedAttentionSpec] = Provider(
    name="triton-invariant",
    version="1",
    priority=30,
    supported=supported,
    accepts=_accepts,
    load=lambda: TritonPagedAttention(one_tile=True),
)
