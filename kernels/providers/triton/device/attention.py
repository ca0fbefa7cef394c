"""Attention over a paged cache: online softmax (Milakov and Gimelshein 2018, Dao et al. 2022) over keys in one order.

Keys are taken in splits of SPLIT positions, each from nothing, and the splits are merged in rising order, whether one
program does them all (``attend``) or each is a program of its own (``attend_split`` and ``merge_splits``, flash
decoding). So where the tiles have one shape, a query's sums are the same numbers in the same order in a prompt, in a
chunk of it and in decoding, and what a tile masks for one of its rows leaves that row's numbers as they are.

Symbols as in ``kernels.ops.paged_attention``. A tile is ROWS rows of the query: some tokens of one sequence, each with
the GROUP query heads that share a key-value head.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def find_sequence(query_start_loc, tile, sequences, TOKENS: tl.constexpr):
    """The sequence that a tile belongs to, where sequence s begins with tile starts[s] // TOKENS + s."""
    low, high = 0, sequences
    while low < high:
        middle = (low + high) // 2
        begins = tl.load(query_start_loc + middle) // TOKENS + middle
        if begins <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def load_queries(
    q, q_row, q_head, first, token, tokens, head, size, GROUP: tl.constexpr, ROWS: tl.constexpr, HEAD: tl.constexpr
):
    """Rows [ROWS, HEAD] of a tile that begins with a sequence's query ``token``, zeros where it has none."""
    rows, numbers = tl.arange(0, ROWS), tl.arange(0, HEAD)
    query = token + rows // GROUP
    at = (first + query).to(tl.int64) * q_row + (head * GROUP + rows % GROUP) * q_head
    mask = (query < tokens) & (rows // GROUP < ROWS // GROUP)
    return tl.load(q + at[:, None] + numbers[None, :], mask=mask[:, None] & (numbers < size)[None, :], other=0.0)


@triton.jit
def from_e4m3(held):
    """Bytes of e4m3 in float32. A half of the same bits is too small by 2^8, subnormal ones included, but for NaN."""
    wide = held.to(tl.int16)
    halves = tl.where((wide & 0x7F) == 0x7F, 0x7FFF, (wide << 7) & -0x4001)
    return halves.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 256.0


@triton.jit
def merge(peak, total, sums, other_peak, other_total, other_sums):
    """Two parts of a softmax over different keys, as one. Parts without a key change nothing of the other."""
    higher = tl.maximum(peak, other_peak)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    mine, its = tl.exp2(peak - base), tl.exp2(other_peak - base)
    return higher, total * mine + other_total * its, sums * mine[:, None] + other_sums * its[:, None]


@triton.jit
def seen_scores(
    scores, positions, key, held, window, slopes, soft_cap,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, SOFT_CAP: tl.constexpr,
):  # fmt: skip
    """Products [ROWS, KEYS] as scores in units of log2(e), -inf where a row does not see a key."""
    LOG2_E: tl.constexpr = 1.4426950408889634
    if SOFT_CAP:
        # tanh by the logistic function, which does not overflow.
        scores = soft_cap * (2.0 * tl.sigmoid(2.0 * (scores / soft_cap)) - 1.0)
    distance = positions[:, None] - key[None, :]
    if ALIBI:
        scores -= slopes[:, None] * distance.to(tl.float32)
    seen = held[None, :] & (distance >= 0)
    if WINDOW:
        seen = seen & (distance < window)
    return tl.where(seen, scores * LOG2_E, float("-inf"))


@triton.jit
def one_split(
    queries, positions, k_cache, v_cache, table, k_block, k_slot, k_number, v_block, v_slot, v_number,
    k_scales, v_scales, scale_block, scale_slot,
    block_size, size, begin, end, lowest, scale, window, slopes, soft_cap,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, SOFT_CAP: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr,
    ROWS: tl.constexpr, WIDEN: tl.constexpr, FORMAT: tl.constexpr,
):  # fmt: skip
    """(peak [ROWS], total [ROWS], sums [ROWS, HEAD]) over the keys in [begin, end), of which none below ``lowest`` is
    read. Caches and scales begin at the key-value head. Scores are in units of log2(e)."""
    numbers = tl.arange(0, HEAD)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, HEAD], tl.float32)
    for start in range(begin, end, KEYS):
        key = start + tl.arange(0, KEYS)
        held = (key < end) & (key >= lowest)
        block = tl.load(table + key // block_size, mask=held, other=0).to(tl.int64)
        slot = key % block_size
        k_at = block * k_block + slot * k_slot
        k = tl.load(
            k_cache + k_at[None, :] + (numbers * k_number)[:, None],
            mask=held[None, :] & (numbers < size)[:, None],
            other=0.0,
        )
        if FORMAT == "e4m3":
            k = from_e4m3(k)
        if WIDEN:
            scores = tl.dot(queries.to(tl.float32), k.to(tl.float32), input_precision="ieee")
        else:
            scores = tl.dot(queries, k.to(queries.dtype), input_precision="ieee")
        scores *= scale
        if FORMAT == "int8":
            scale_at = block * scale_block + slot * scale_slot
            scores *= tl.load(k_scales + scale_at, mask=held, other=0.0)[None, :]
        scores = seen_scores(scores, positions, key, held, window, slopes, soft_cap, WINDOW, ALIBI, SOFT_CAP)
        higher = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shrink = tl.exp2(peak - base)
        weights = tl.exp2(scores - base[:, None])
        total = total * shrink + tl.sum(weights, 1)
        v_at = block * v_block + slot * v_slot
        v = tl.load(
            v_cache + v_at[:, None] + (numbers * v_number)[None, :],
            mask=held[:, None] & (numbers < size)[None, :],
            other=0.0,
        )
        if FORMAT == "e4m3":
            v = from_e4m3(v)
        elif FORMAT == "int8":
            v = v.to(tl.float32) * tl.load(v_scales + scale_at, mask=held, other=0.0)[:, None]
        if WIDEN:
            part = tl.dot(weights, v.to(tl.float32), input_precision="ieee")
        else:
            part = tl.dot(weights.to(queries.dtype), v.to(queries.dtype), input_precision="ieee")
        sums = sums * shrink[:, None] + part
        peak = higher
    return peak, total, sums


@triton.jit
def attend(
    q, k_cache, v_cache, k_scales, v_scales, block_tables, query_start_loc, seq_lens, alibi_slopes, out,
    q_row, q_head, k_block, k_slot, k_head, k_number, v_block, v_slot, v_head, v_number, scale_block, scale_slot,
    scale_head,
    table_row, out_row, out_head,
    sequences, block_size, size, scale, window, soft_cap,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, SOFT_CAP: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, SPLIT: tl.constexpr, HEAD: tl.constexpr, WIDEN: tl.constexpr, FORMAT: tl.constexpr,
):  # fmt: skip
    """Program (tile, key-value head): a tile of some sequence's queries, over all of its keys."""
    TOKENS: tl.constexpr = ROWS // GROUP
    tile, head = tl.program_id(0), tl.program_id(1)
    sequence = find_sequence(query_start_loc, tile, sequences, TOKENS)
    first = tl.load(query_start_loc + sequence)
    tokens = tl.load(query_start_loc + sequence + 1) - first
    token = (tile - (first // TOKENS + sequence)) * TOKENS
    if token >= tokens:
        return
    length = tl.load(seq_lens + sequence)
    queries = load_queries(q, q_row, q_head, first, token, tokens, head, size, GROUP, ROWS, HEAD)
    rows, numbers = tl.arange(0, ROWS), tl.arange(0, HEAD)
    query = token + rows // GROUP
    valid = (query < tokens) & (rows // GROUP < TOKENS)
    positions = length - tokens + query
    slopes = tl.zeros([ROWS], tl.float32)
    if ALIBI:
        slopes = tl.load(alibi_slopes + head * GROUP + rows % GROUP)
    end = tl.minimum(length, length - tokens + token + TOKENS)
    lowest = 0
    if WINDOW:
        lowest = tl.maximum(0, length - tokens + token - window + 1)
    table = block_tables + sequence.to(tl.int64) * table_row
    k_cache += head * k_head
    v_cache += head * v_head
    k_scales += head * scale_head
    v_scales += head * scale_head
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, HEAD], tl.float32)
    for begin in range(lowest // SPLIT * SPLIT, end, SPLIT):
        # From the tile of keys on in which the first is that is read.
        start = tl.maximum(begin, lowest // KEYS * KEYS)
        part = one_split(
            queries, positions, k_cache, v_cache, table, k_block, k_slot, k_number, v_block, v_slot, v_number,
            k_scales, v_scales, scale_block, scale_slot, block_size, size, start, tl.minimum(begin + SPLIT, end),
            lowest, scale, window, slopes, soft_cap, WINDOW, ALIBI, SOFT_CAP, KEYS, HEAD, ROWS, WIDEN, FORMAT,
        )  # fmt: skip
        peak, total, sums = merge(peak, total, sums, part[0], part[1], part[2])
    at = (first + query).to(tl.int64) * out_row + (head * GROUP + rows % GROUP) * out_head
    result = sums / tl.where(valid, total, 1.0)[:, None]
    mask = valid[:, None] & (numbers < size)[None, :]
    tl.store(out + at[:, None] + numbers[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def attend_split(
    q, k_cache, v_cache, k_scales, v_scales, block_tables, seq_lens, alibi_slopes, peaks, totals, parts,
    q_row, q_head, k_block, k_slot, k_head, k_number, v_block, v_slot, v_head, v_number, scale_block, scale_slot,
    scale_head,
    table_row, block_size, size, scale, window, soft_cap,
    WINDOW: tl.constexpr, ALIBI: tl.constexpr, SOFT_CAP: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, SPLIT: tl.constexpr, HEAD: tl.constexpr, WIDEN: tl.constexpr, FORMAT: tl.constexpr,
):  # fmt: skip
    """Program (sequence, key-value head, split), each sequence having one query.

    Writes peaks and totals [S, Hkv, splits, ROWS] and parts [S, Hkv, splits, ROWS, HEAD]; nothing for a split that the
    sequence has no keys in.
    """
    sequence, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(seq_lens + sequence)
    lowest = 0
    if WINDOW:
        lowest = tl.maximum(0, length - window)
    begin = split * SPLIT
    if (begin >= length) | (begin + SPLIT <= lowest):
        return
    queries = load_queries(q, q_row, q_head, sequence, 0, 1, head, size, GROUP, ROWS, HEAD)
    rows, numbers = tl.arange(0, ROWS), tl.arange(0, HEAD)
    positions = length - 1 + rows // GROUP
    slopes = tl.zeros([ROWS], tl.float32)
    if ALIBI:
        slopes = tl.load(alibi_slopes + head * GROUP + rows % GROUP, mask=rows < GROUP, other=0.0)
    table = block_tables + sequence.to(tl.int64) * table_row
    peak, total, sums = one_split(
        queries, positions, k_cache + head * k_head, v_cache + head * v_head, table, k_block, k_slot, k_number,
        v_block, v_slot, v_number, k_scales + head * scale_head, v_scales + head * scale_head, scale_block, scale_slot,
        block_size, size, tl.maximum(begin, lowest // KEYS * KEYS), tl.minimum(begin + SPLIT, length), lowest, scale,
        window, slopes, soft_cap, WINDOW, ALIBI, SOFT_CAP, KEYS, HEAD, ROWS, WIDEN, FORMAT,
    )  # fmt: skip
    place = ((sequence * tl.num_programs(1) + head) * tl.num_programs(2) + split).to(tl.int64) * ROWS
    tl.store(peaks + place + rows, peak)
    tl.store(totals + place + rows, total)
    tl.store(parts + (place + rows)[:, None] * HEAD + numbers[None, :], sums)


@triton.jit
def merge_splits(
    peaks,
    totals,
    parts,
    seq_lens,
    out,
    out_row,
    out_head,
    splits,
    size,
    window,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    HEAD: tl.constexpr,
):
    """Program (sequence, key-value head): what ``attend_split`` wrote, in rising order, to out [S, Hq, D]."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(seq_lens + sequence)
    lowest = 0
    if WINDOW:
        lowest = tl.maximum(0, length - window)
    rows, numbers = tl.arange(0, ROWS), tl.arange(0, HEAD)
    place = ((sequence * tl.num_programs(1) + head) * splits).to(tl.int64)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, HEAD], tl.float32)
    for split in range(lowest // SPLIT, (length + SPLIT - 1) // SPLIT):
        at = (place + split) * ROWS + rows
        part = tl.load(parts + at[:, None] * HEAD + numbers[None, :])
        peak, total, sums = merge(peak, total, sums, tl.load(peaks + at), tl.load(totals + at), part)
    result = sums / tl.where(rows < GROUP, total, 1.0)[:, None]
    to = sequence.to(tl.int64) * out_row + (head * GROUP + rows) * out_head
    mask = (rows < GROUP)[:, None] & (numbers < size)[None, :]
    tl.store(out + to[:, None] + numbers[None, :], result.to(out.dtype.element_ty), mask=mask)
