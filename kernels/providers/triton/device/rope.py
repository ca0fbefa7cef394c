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
def to_e4m3(x):
    """float32 as bytes of e4m3; beyond 448 it is 448."""
    size = tl.minimum(tl.abs(x), 448.0)
    bits = size.to(tl.int32, bitcast=True)
    normal = (bits + 0x7FFFF + ((bits >> 20) & 1) - 0x3C000000) >> 20
    # The last place of the sum with 2^14 is 2^-9, the smallest number there is.
    small = (size + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    number = tl.where(size < 0.015625, small, normal)
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (tl.where(x == x, number, 0x7F) | sign).to(tl.int8)


@triton.jit
def scale_of(first, second):
    """Of the int8 that a head's halves become; NaN where one of them is not finite."""
    peak = tl.max(tl.maximum(tl.abs(first), tl.abs(second)), 0)
    strange = tl.sum((first - first) + (second - second), 0)
    return tl.div_rn(peak, 127.0) + strange


@triton.jit
def to_int8(x, scale):
    """The nearest multiples, ties the even ones; 0 under a scale that is not a number."""
    divisor = tl.where(scale > 0.0, scale, float("inf"))
    number = tl.minimum(tl.maximum(tl.div_rn(x, tl.zeros_like(x) + divisor), -127.0), 127.0)
    number = tl.where(scale == scale, number, 0.0)
    return ((number + 12582912.0) - 12582912.0).to(tl.int8)


@triton.jit
def store_head(first, second, to, number, scale, half, offsets, mask, FORMAT: tl.constexpr):
    """A head's halves, float32, to its place in a cache and, for int8, their scale to ``scale``."""
    if FORMAT == "int8":
        found = scale_of(tl.where(mask, first, 0.0), tl.where(mask, second, 0.0))
        tl.store(scale, found)
        first, second = to_int8(first, found), to_int8(second, found)
    elif FORMAT == "e4m3":
        first, second = to_e4m3(first), to_e4m3(second)
    tl.store(to + offsets * number, first.to(to.dtype.element_ty), mask=mask)
    tl.store(to + (half + offsets) * number, second.to(to.dtype.element_ty), mask=mask)


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
    k_scales,
    v_scales,
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
    scale_block,
    scale_slot,
    scale_head,
    num_heads,
    block_size,
    half,
    HALF: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """Program (token, head): the query heads first, then the key-value heads. out [T, Hq, D] is contiguous.

    FORMAT: ``e4m3`` or ``int8`` where the caches are bytes of these, and empty where they are floats.
    """
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
        scale = block * scale_block + place * scale_slot + at * scale_head
        store_head(first, second, keys, k_number, k_scales + scale, half, offsets, mask, FORMAT)
        from_row = v + token * v_row + at * v_head + offsets
        values = v_cache + block * v_block + place * v_slot + at * v_cache_head
        low = tl.load(from_row, mask=mask, other=0.0).to(tl.float32)
        high = tl.load(from_row + half, mask=mask, other=0.0).to(tl.float32)
        store_head(low, high, values, v_number, v_scales + scale, half, offsets, mask, FORMAT)
