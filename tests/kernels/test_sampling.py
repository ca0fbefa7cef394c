"""The references of sampling against their definitions, one token at a time, and against transformers."""

import math

import pytest
import torch

from kernels.ops.argmax import argmax
from kernels.ops.sample_tokens import OP, OUT_OF_REACH, filter_logits, gumbel, sample_tokens
from kernels.philox import philox


def kept_by_the_definition(logits, top_k, top_p, min_p):
    """Token ids left by the three filters, one token at a time, in float64."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if top_k:
        last = logits[order[min(top_k, len(order)) - 1]]
        order = [token for token in order if logits[token] >= last]
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    kept, before, total = [], 0.0, math.fsum(weights)
    for token, weight in zip(order, weights, strict=True):
        if (not kept or before < top_p * total or top_p == 1.0) and weight >= min_p:
            kept.append(token)
        before += weight
    return {token for token in kept if logits[token] > -math.inf}


def drawn_by_the_definition(logits, temperature, top_k, top_p, min_p, seed, choice, position):
    if temperature == 0.0:
        return max(range(len(logits)), key=logits.__getitem__)
    at = min(max(temperature, 2.0**-126), 3.4028234663852886e38)
    scaled = ((torch.tensor(logits) - max(logits)) / torch.tensor(at)).tolist()
    kept = kept_by_the_definition(scaled, top_k, top_p, min_p)
    tokens = torch.arange(len(logits))
    same = [torch.tensor(value).expand(len(tokens)) for value in (seed, choice, position)]
    words = philox(*same, tokens // 4).gather(1, tokens[:, None] % 4)[:, 0].tolist()
    scores = {token: scaled[token] - math.log(-math.log(((words[token] >> 8) + 0.5) / 2**24)) for token in kept}
    return max(sorted(scores), key=scores.__getitem__)


def test_sample_tokens():
    for example in OP.examples(torch.float32, torch.Generator().manual_seed(1)):
        columns = [column.tolist() for column in example.arguments]
        expected = [drawn_by_the_definition(*row) for row in zip(*columns, strict=True)]
        assert sample_tokens(*example.arguments).tolist() == expected


def filters(top_k, top_p, min_p, rows=1):
    double = torch.float64
    return (
        torch.full((rows,), top_k),
        torch.full((rows,), top_p, dtype=double),
        torch.full((rows,), min_p, dtype=double),
    )


@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 9999])
@pytest.mark.parametrize("top_p", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.1, 1.0])
def test_filter_logits(top_k, top_p, min_p):
    for size in (1, 11, 500):
        logits = torch.randn(3, size, generator=torch.Generator().manual_seed(size)) * 3
        logits[:, ::7] = 1.0  # Ties.
        logits[:, 3::5] = -torch.inf
        filtered = filter_logits(logits, *filters(top_k, top_p, min_p, rows=3))
        for row in range(len(logits)):
            left = torch.nonzero(filtered[row] > -torch.inf).flatten().tolist()
            assert set(left) == kept_by_the_definition(logits[row].tolist(), top_k, top_p, min_p)
            assert torch.equal(filtered[row, left], logits[row, left])


@pytest.mark.parametrize(("top_p", "size", "kept"), [(0.3, 10, 3), (0.5, 10, 5), (0.5, 8, 4), (0.1, 1000, 100)])
def test_as_many_of_equal_tokens_as_reach_the_share_exactly(top_p, size, kept):
    filtered = filter_logits(torch.zeros(1, size), *filters(0, top_p, 0.0))
    assert torch.nonzero(filtered[0] == 0.0).flatten().tolist() == list(range(kept))


def test_filters_match_transformers():
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(3)) * 3
    for top_k, top_p, min_p, temperature in [(7, 0.8, 0.02, 0.7), (50, 0.95, 0.0001, 1.3), (300, 0.3, 0.5, 1.0)]:
        expected = TemperatureLogitsWarper(temperature)(None, logits)
        for warper in (TopKLogitsWarper(top_k), TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)):
            expected = warper(None, expected)
        assert torch.equal(filter_logits(logits / temperature, *filters(top_k, top_p, min_p, rows=6)), expected)


def test_the_noise_lies_where_skipping_tokens_assumes():
    extremes = gumbel(torch.tensor([0, 2**32 - 1]))
    assert extremes.isfinite().all()
    assert (extremes[1] - extremes[0]).item() < OUT_OF_REACH


def test_argmax_takes_the_first_of_equals_and_notices_nan():
    logits = torch.tensor([[1.0, 3.0, 3.0], [-torch.inf, -torch.inf, -2.0], [9.0, torch.nan, 1.0]])
    ids, best = argmax(logits)
    assert ids[:2].tolist() == [1, 2]
    assert best[:2].tolist() == [3.0, -2.0]
    assert best[2].isnan()
