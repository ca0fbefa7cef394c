"""Reductions over rows of logits, and the choice of rows."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def argmax(logits, ids, best, row_stride, vocab, BLOCK: tl.constexpr):
    """Program (row): the lowest id of the greatest logit, and that logit; NaN where any is."""
    row = tl.program_id(0)
    at = logits + row.to(tl.int64) * row_stride
    lanes = tl.arange(0, BLOCK)
    # Each lane keeps the best of every BLOCK-th logit, the first of equals.
    value = tl.full([BLOCK], float("-inf"), tl.float32)
    where = lanes
    unknown = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocab, BLOCK):
        columns = start + lanes
        found = tl.load(at + columns, mask=columns < vocab, other=float("-inf"))
        unknown |= (found != found).to(tl.int32)
        where = tl.where(found > value, columns, where)
        value = tl.where(found > value, found, value)
    top = tl.max(value, 0)
    lowest = tl.min(tl.where((value == top) & (where < vocab), where, vocab), 0)
    tl.store(ids + row, tl.minimum(lowest, vocab - 1).to(tl.int64))
    tl.store(best + row, tl.where(tl.max(unknown, 0) > 0, float("nan"), top))


@triton.jit
def last_rows(x, query_start_loc, out, x_row, size, BLOCK: tl.constexpr):
    """Program (sequence, block of columns) of x [T, size] → out [S, size]."""
    sequence = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    row = tl.load(query_start_loc + sequence + 1).to(tl.int64) - 1
    tl.store(out + sequence * size + columns, tl.load(x + row * x_row + columns, mask=mask), mask=mask)


@triton.jit
def apply_bitmask(logits, bits, out, logits_row, bits_row, vocab, BLOCK: tl.constexpr):
    """Program (row, block of tokens); token t has bit t % 32 of word t // 32. out [R, V] is contiguous."""
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = tokens < vocab
    words = tl.load(bits + row * bits_row + tokens // 32, mask=mask, other=0)
    found = tl.load(logits + row * logits_row + tokens, mask=mask)
    allowed = ((words >> (tokens % 32)) & 1) != 0
    tl.store(out + row * vocab + tokens, tl.where(allowed, found, float("-inf")), mask=mask)


@triton.jit
def order_keys(values, columns):
    """Distinct int64 keys in the order of values, the lower column being the greater of two equals.

    As in ``kernels.ops.token_logprobs``: a float's bits, turned so that they compare as the float does, and the column.
    """
    bits = (values + 0.0).to(tl.int32, bitcast=True).to(tl.int64)  # -0.0 + 0.0 is 0.0: both zeros are equal.
    rising = tl.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    return (rising << 32) - columns.to(tl.int64)


@triton.jit
def token_logprobs(logits, targets, logprob, rank, top_ids, top_logprobs, row_stride, vocab, top, BLOCK: tl.constexpr):
    """Program (row). Passes over the row: the greatest, the sum, the rank, then one for each of the likeliest."""
    row = tl.program_id(0)
    at = logits + row.to(tl.int64) * row_stride
    lanes = tl.arange(0, BLOCK)
    greatest = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        columns = start + lanes
        greatest = tl.maximum(greatest, tl.load(at + columns, mask=columns < vocab, other=float("-inf")))
    peak = tl.max(greatest, 0)
    target = tl.load(targets + row)
    chosen = tl.load(at + target)
    # A row of one, as the keys of the others are computed.
    key = tl.max(order_keys(chosen + tl.zeros([1], tl.float32), target + tl.zeros([1], tl.int64)), 0)
    total = tl.zeros([BLOCK], tl.float32)
    above = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocab, BLOCK):
        columns = start + lanes
        mask = columns < vocab
        found = tl.load(at + columns, mask=mask, other=float("-inf"))
        total += tl.where(mask, tl.exp(found - peak), 0.0)
        above += (mask & (order_keys(found, columns) > key)).to(tl.int32)
    shift = peak + tl.log(tl.sum(total, 0))
    tl.store(logprob + row, chosen - shift)
    tl.store(rank + row, (tl.sum(above, 0) + 1).to(tl.int64))
    LOWEST: tl.constexpr = -(2**63)
    limit = tl.full([1], 2**63 - 1, tl.int64)
    for place in range(top):
        found_key = tl.full([BLOCK], LOWEST, tl.int64)
        for start in range(0, vocab, BLOCK):
            columns = start + lanes
            found = tl.load(at + columns, mask=columns < vocab, other=float("-inf"))
            keys = order_keys(found, columns)
            fits = (columns < vocab) & (keys < limit)
            found_key = tl.maximum(found_key, tl.where(fits, keys, LOWEST))
        next_key = tl.max(found_key, 0)
        limit = next_key + tl.zeros([1], tl.int64)
        column = (-next_key) & 0xFFFFFFFF
        tl.store(top_ids + row * top + place, column)
        tl.store(top_logprobs + row * top + place, tl.load(at + column) - shift)
