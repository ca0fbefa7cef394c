"""Rotary embedding of queries and keys, and the write of keys and values to the paged cache."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate(x, cos, sin, half, offsets, mask):
    """The two halves of one head at x, rotated, in float32."""
    first = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(x + half + offsets, mask=mask, other=0.0).to(tl.float32)
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def rope_and_cache(
    q,
    k,
    v,
    positions,
    cos,
    sin,
    k_cache,
    v_cache,
    slot_mapping,
    out,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    turn_row,
    k_block,
    k_slot,
    k_cache_head,
    k_number,
    v_block,
    v_slot,
    v_cache_head,
    v_number,
    num_heads,
    block_size,
    half,
    HALF: tl.constexpr,
):
    """Program (token, head): the query heads first, then the key-value heads. out [T, Hq, D] is contiguous."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    offsets = tl.arange(0, HALF)
    mask = offsets < half
    turn = tl.load(positions + token) * turn_row + offsets
    cosine = tl.load(cos + turn, mask=mask, other=0.0)
    sine = tl.load(sin + turn, mask=mask, other=0.0)
    if head < num_heads:
        first, second = rotate(q + token * q_row + head * q_head, cosine, sine, half, offsets, mask)
        rotated = out + (token * num_heads + head) * 2 * half + offsets
        tl.store(rotated, first.to(out.dtype.element_ty), mask=mask)
        tl.store(rotated + half, second.to(out.dtype.element_ty), mask=mask)
    else:
        at = head - num_heads
        slot = tl.load(slot_mapping + token)
        block, place = slot // block_size, slot % block_size
        first, second = rotate(k + token * k_row + at * k_head, cosine, sine, half, offsets, mask)
        keys = k_cache + block * k_block + place * k_slot + at * k_cache_head
        tl.store(keys + offsets * k_number, first.to(k_cache.dtype.element_ty), mask=mask)
        tl.store(keys + (half + offsets) * k_number, second.to(k_cache.dtype.element_ty), mask=mask)
        from_row = v + token * v_row + at * v_head + offsets
        values = v_cache + block * v_block + place * v_slot + at * v_cache_head
        low, high = tl.load(from_row, mask=mask, other=0.0), tl.load(from_row + half, mask=mask, other=0.0)
        tl.store(values + offsets * v_number, low.to(v_cache.dtype.element_ty), mask=mask)
        tl.store(values + (half + offsets) * v_number, high.to(v_cache.dtype.element_ty), mask=mask)
