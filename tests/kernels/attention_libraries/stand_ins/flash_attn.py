"""In place of flash-attn 2.8: its functions' signatures, what its C++ checks of arguments, and plain attention."""

import torch
from plain_attention import attend, gather

__version__ = "2.8.3"
PAGE = 256
calls = []


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    calls.append("packed")
    assert (dropout_p, deterministic, return_attn_probs) == (0.0, False, False)
    for starts in (cu_seqlens_q, cu_seqlens_k):
        assert starts.dtype == torch.int32 and starts.is_contiguous() and starts.shape == (len(block_table) + 1,)
    queries, lengths = cu_seqlens_q.diff(), cu_seqlens_k.diff()
    assert cu_seqlens_q[0] == cu_seqlens_k[0] == 0 and cu_seqlens_q[-1] == len(q)
    assert isinstance(max_seqlen_q, int) and max_seqlen_q >= queries.max()
    assert isinstance(max_seqlen_k, int) and max_seqlen_k >= lengths.max()
    seen = _check(q, k, v, softmax_scale, causal, window_size, softcap, alibi_slopes, block_table)
    parts = []
    for row, part in enumerate(q.split(queries.tolist())):
        keys, values = (gather(cache, block_table[row], int(lengths[row])) for cache in (k, v))
        parts.append(attend(part, keys, values, **seen))
    return torch.cat(parts)


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    rotary_cos=None,
    rotary_sin=None,
    cache_seqlens=None,
    cache_batch_idx=None,
    cache_leftpad=None,
    block_table=None,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    rotary_interleaved=True,
    alibi_slopes=None,
    num_splits=0,
    return_softmax_lse=False,
):
    calls.append("single")
    assert (k, v, rotary_cos, rotary_sin, cache_batch_idx, cache_leftpad) == (None,) * 6
    assert (rotary_interleaved, num_splits, return_softmax_lse) == (True, 0, False)
    assert q.dim() == 4 and len(q) == len(block_table)
    assert cache_seqlens.dtype == torch.int32 and cache_seqlens.is_contiguous() and cache_seqlens.shape == (len(q),)
    seen = _check(q, k_cache, v_cache, softmax_scale, causal, window_size, softcap, alibi_slopes, block_table)
    parts = []
    for row, part in enumerate(q):
        keys, values = (gather(cache, block_table[row], int(cache_seqlens[row])) for cache in (k_cache, v_cache))
        parts.append(attend(part, keys, values, **seen))
    return torch.stack(parts)


def _check(q, k, v, softmax_scale, causal, window_size, softcap, alibi_slopes, block_table):
    assert q.dtype in (torch.float16, torch.bfloat16) and k.dtype == v.dtype == q.dtype
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert k.dim() == 4 and k.shape == v.shape and k.shape[1] % PAGE == 0
    assert q.shape[-1] == k.shape[-1] <= 256 and q.shape[-1] % 8 == 0 and q.shape[-2] % k.shape[2] == 0
    assert block_table.dtype == torch.int32 and block_table.stride(-1) == 1
    assert causal is True and isinstance(softmax_scale, float) and isinstance(softcap, float)
    if alibi_slopes is not None:
        assert alibi_slopes.dtype == torch.float32 and alibi_slopes.shape == (q.shape[-2],)
    left, right = window_size
    assert right in (-1, 0), "causal attention looks at nothing to the right"
    return {"scale": softmax_scale, "left": left, "soft_cap": softcap, "slopes": alibi_slopes}
