"""One token drawn from each row of logits: temperature, top-k, top-p, min-p and noise, as ``sample_tokens`` says.

No row is sorted. A filter keeps what lies above some value of the row, and that value is searched by halving the bits
of a float: each pass over the row tells what lies above a bound, and which values next to the bound there are.

The best logit of a row is brought to 0, so the bits of the others, without the sign, rise as they fall: their *key*.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_keys(at, start, lanes, vocab, peak, temperature):
    """Keys of tokens start + lanes; past the vocabulary greater than any token's."""
    tokens = start + lanes
    logits = tl.load(at + tokens, mask=tokens < vocab, other=float("-inf"))
    scaled = tl.div_rn(logits - peak, temperature + tl.zeros_like(logits))
    keys = scaled.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(tokens < vocab, keys, 0x7FFFFFFF)


@triton.jit
def values_of(keys):
    """The scaled logits again."""
    return -keys.to(tl.float32, bitcast=True)


@triton.jit
def weights_of(keys, MASS: tl.constexpr):
    """1 for each token; with MASS its probability over that of the likeliest."""
    weights = tl.full(keys.shape, 1.0, tl.float64)
    if MASS:
        weights = tl.exp(values_of(keys)).to(tl.float64)
    return weights


@triton.jit
def weight_up_to(at, vocab, peak, temperature, bound, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """Of all tokens with keys up to ``bound``, added up in an order that depends on the vocabulary alone."""
    lanes = tl.arange(0, BLOCK)
    weight = tl.zeros([BLOCK], tl.float64)
    for start in range(0, vocab, BLOCK):
        keys = load_keys(at, start, lanes, vocab, peak, temperature)
        weight += tl.where(keys <= bound, weights_of(keys, MASS), 0.0)
    return tl.sum(weight, 0)


@triton.jit
def least_key(at, vocab, peak, temperature, last, target, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The least key up to which tokens weigh ``target`` together; at most ``last``, a key of the row or past them all.

    Between a bound that weighs enough and one that does not only keys that occur are tried.
    """
    lanes = tl.arange(0, BLOCK)
    low = 0
    high = last
    while low < high:
        middle = low + (high - low) // 2
        weight = tl.zeros([BLOCK], tl.float64)
        below = tl.full([BLOCK], 0, tl.int32) + low
        above = tl.full([BLOCK], 0, tl.int32) + high
        for start in range(0, vocab, BLOCK):
            keys = load_keys(at, start, lanes, vocab, peak, temperature)
            inside = keys <= middle
            weight += tl.where(inside, weights_of(keys, MASS), 0.0)
            below = tl.maximum(below, tl.where(inside, keys, low))
            above = tl.minimum(above, tl.where(inside, high, keys))
        if tl.sum(weight, 0) >= target:
            high = tl.max(below, 0)
        else:
            low = tl.min(above, 0)
    return low


@triton.jit
def random_words(seed, choice, position, block, COUNTERS: tl.constexpr):
    """uint32 of 4 * COUNTERS tokens, those of counters block, block + 1, ...; the same as of ``kernels.philox``."""
    first = (block + tl.arange(0, COUNTERS)).to(tl.uint32)
    none = tl.zeros([COUNTERS], tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, first, none + position.to(tl.uint32), none + choice.to(tl.uint32), none)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def gumbel(words):
    """float32 noise; in float64 until the end, where the uniform number is exact, and never 0 or 1."""
    uniform = ((words >> 8).to(tl.float64) + 0.5) * 5.9604644775390625e-08
    return -(tl.log(-tl.log(uniform)).to(tl.float32))


@triton.jit
def sample_tokens(
    logits,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    seeds,
    choices,
    positions,
    tokens,
    row_stride,
    vocab,
    BLOCK: tl.constexpr,
):
    """Program (row)."""
    OUT_OF_REACH: tl.constexpr = -22.0
    LAST_KEY: tl.constexpr = 0x7F800000
    row = tl.program_id(0)
    at = logits + row.to(tl.int64) * row_stride
    lanes = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    where = lanes
    for start in range(0, vocab, BLOCK):
        found = tl.load(at + start + lanes, mask=start + lanes < vocab, other=float("-inf"))
        where = tl.where(found > best, start + lanes, where)
        best = tl.maximum(found, best)
    peak = tl.max(best, 0)
    given = tl.load(temperatures + row)
    if given <= 0.0:
        lowest = tl.min(tl.where((best == peak) & (where < vocab), where, vocab), 0)
        tl.store(tokens + row, tl.minimum(lowest, vocab - 1).to(tl.int64))
        return
    temperature = tl.minimum(tl.maximum(given, 1.1754943508222875e-38), 3.4028234663852886e38).to(tl.float32)
    top_k, top_p, min_p = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row)

    last = tl.full([], LAST_KEY, tl.int32)
    if (top_k > 0) & (top_k < vocab):
        last = least_key(at, vocab, peak, temperature, last, top_k.to(tl.float64), False, BLOCK)
    # Of tokens with the last key those go on that come first: as many as the nucleus needs.
    target, heavier = tl.full([], float("inf"), tl.float64), tl.full([], 0.0, tl.float64)
    if top_p < 1.0:
        target = top_p * weight_up_to(at, vocab, peak, temperature, last, True, BLOCK)
        last = least_key(at, vocab, peak, temperature, last, target, True, BLOCK)
        heavier = weight_up_to(at, vocab, peak, temperature, last - 1, True, BLOCK)

    seed, choice, position = tl.load(seeds + row), tl.load(choices + row), tl.load(positions + row)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    where = lanes
    ties = 0
    for start in range(0, vocab, BLOCK):
        keys = load_keys(at, start, lanes, vocab, peak, temperature)
        equal = (keys == last).to(tl.int32)
        before = ties + tl.cumsum(equal, 0) - equal
        ties += tl.sum(equal, 0)
        weights = weights_of(keys, True)
        fits = (before == 0) | (heavier + before.to(tl.float64) * weights < target)
        kept = (keys < last) | ((keys == last) & fits)
        values = tl.where(kept & (weights >= min_p), values_of(keys), float("-inf"))
        if tl.max(values, 0) >= OUT_OF_REACH:
            scores = values + gumbel(random_words(seed, choice, position, start // 4, BLOCK // 4))
            where = tl.where(scores > best, start + lanes, where)
            best = tl.maximum(scores, best)
    chosen = tl.min(tl.where(best == tl.max(best, 0), where, vocab), 0)
    tl.store(tokens + row, chosen.to(tl.int64))
