"""Sampling and log-probabilities in C against their references, on many random rows and at the extremes."""

import math
from functools import cache

import builds_for_tests
import pytest
import torch

from kernels.ops.argmax import argmax
from kernels.ops.sample_tokens import sample_tokens
from kernels.ops.token_logprobs import token_logprobs
from kernels.providers.cpu.argmax import NativeArgmax
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.sample_tokens import NativeSampleTokens
from kernels.providers.cpu.token_logprobs import NativeTokenLogprobs


@pytest.fixture(params=builds_for_tests.INSTALLED)
def library(request, builds) -> Library:
    """Of the builds those that are installed: the others are slow, and run the ops' examples."""
    return builds[request.param]


@pytest.fixture(params=[1, 2, 3])
def threads(request, set_threads):
    set_threads(request.param)


def some(draw, share, values, otherwise):
    """Of this share of the elements ``otherwise``."""
    return torch.where(torch.rand(values.shape, generator=draw) < share, otherwise, values)


def random_rows(seed, rows, vocab_size):
    """The arguments of ``sample_tokens``: flat rows and peaked ones, all settings and their extremes mixed."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(shape, generator=draw, dtype=torch.float64)

    spread = 10 ** (uniform(rows, 1) * 3 - 1.5)
    logits = (torch.randn(rows, vocab_size, generator=draw) * spread).float()
    if seed % 3 == 0:
        logits = logits.round()  # Ties.
    logits = some(draw, seed % 5 / 5, logits, -torch.inf)
    logits[:, vocab_size // 2] = 1.0
    temperature = some(draw, 0.05, 10 ** (uniform(rows) * 3 - 1.5), 0.0)
    temperature = some(draw, 0.05, some(draw, 0.05, temperature, 1e-300), 1e300)
    top_k = some(draw, 0.5, (uniform(rows) ** 3 * (vocab_size + 3)).long(), 0)
    top_p = some(draw, 0.05, some(draw, 0.5, uniform(rows), 1.0), 0.0)
    min_p = some(draw, 0.03, some(draw, 0.6, uniform(rows) ** 4, 0.0), 1.0)
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=draw)
    choices, positions = torch.randint(0, 2**32, (2, rows), generator=draw)
    return logits, temperature, top_k, top_p, min_p, seeds, choices, positions


ROWS = {1: 700, 2: 700, 3: 700, 5: 900, 16: 900, 63: 900, 127: 700, 128: 700, 129: 700, 255: 700, 300: 700, 301: 700}
LONGER_ROWS = {511: 400, 700: 300, 1000: 200, 1025: 200, 2600: 100, 4099: 50, 13_001: 40, 40_000: 20}


@cache
def random_rows_and_their_tokens():
    """Some 10,000 rows of all lengths, with the reference's tokens."""
    lengths = enumerate((ROWS | LONGER_ROWS).items())
    rows = [random_rows(seed, count, vocab_size) for seed, (vocab_size, count) in lengths]
    return [(arguments, sample_tokens(*arguments)) for arguments in rows]


def test_every_drawn_token_is_that_of_the_reference(library):
    """The two may differ in the last bit of a logarithm, so in principle here, too."""
    draw, rows = NativeSampleTokens(library), 0
    for arguments, expected in random_rows_and_their_tokens():
        assert torch.equal(draw(*arguments), expected), arguments[0].shape
        rows += len(expected)
    assert rows > 10_000


def test_a_drawn_token_is_the_same_alone_and_in_any_batch(library, threads):
    arguments = random_rows(7, 40, 1100)
    draw = NativeSampleTokens(library)
    together = draw(*arguments)
    for row in range(40):
        alone = draw(*(each[row : row + 1] for each in arguments))
        assert alone.tolist() == [together[row]]
    assert torch.equal(draw(*(each[5:23] for each in arguments)), together[5:23])


def drawn(library, logits, **settings):
    """Tokens of 100 positions of one row."""
    count = 100
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    limits = []
    for name, default in defaults.items():
        dtype = torch.int64 if name == "top_k" else torch.float64
        limits.append(torch.full((count,), settings.get(name, default), dtype=dtype))
    temperature, top_k, top_p, min_p = limits
    same = torch.zeros(count, dtype=torch.int64)
    arguments = (logits.expand(count, -1), temperature, top_k, top_p, min_p, same, same, torch.arange(count))
    tokens = NativeSampleTokens(library)(*arguments)
    assert torch.equal(tokens, sample_tokens(*arguments))
    return set(tokens.tolist())


def test_one_token_that_is_not_ruled_out_is_drawn(library):
    logits = torch.full((1, 3000), -torch.inf)
    logits[0, 2777] = -1e38
    assert drawn(library, logits) == {2777}
    assert drawn(library, logits, top_k=5, top_p=0.5, min_p=0.5) == {2777}


def test_the_strictest_filters_leave_the_first_of_the_likeliest(library):
    logits = torch.zeros(1, 1000)
    logits[0, [400, 401, 900]] = 1.0
    assert drawn(library, logits, top_k=1) == {400, 401, 900}  # Equals of the last are kept.
    assert drawn(library, logits, top_p=0.0) == {400}
    assert drawn(library, logits, top_p=1e-9) == {400}
    assert drawn(library, logits, min_p=1.0) == {400, 401, 900}
    assert drawn(library, logits, temperature=1e-300) == {400, 401, 900}
    assert drawn(library, logits, temperature=0.0) == {400}
    assert len(drawn(library, logits, temperature=1e300)) > 75


def test_a_share_of_equal_tokens_is_the_lowest_ids(library):
    logits = torch.zeros(1, 1000)
    assert max(drawn(library, logits, top_p=0.01)) == 9
    logits[0, 600:] = -0.0
    assert max(drawn(library, logits, top_p=0.65)) < 650


@pytest.mark.parametrize("size", [1, 7, 127, 128, 129, 4099])
def test_argmax(library, threads, size):
    logits = torch.randn(20, size, generator=torch.Generator().manual_seed(size)).mul(2).round()
    logits[1] = -torch.inf
    logits[2, -1] = torch.inf
    native = NativeArgmax(library)
    ids, best = native(logits)
    expected_ids, expected_best = argmax(logits)
    assert torch.equal(ids, expected_ids)
    assert torch.equal(best, expected_best)
    for at in {0, size // 2, size - 1}:
        broken = logits.clone()
        broken[5, at] = math.nan
        assert native(broken)[1].isnan().tolist() == [row == 5 for row in range(20)]


@pytest.mark.parametrize("size", [1, 7, 127, 128, 129, 4099])
def test_token_logprobs(library, threads, size):
    draw = torch.Generator().manual_seed(size)
    logits = torch.randn(12, size, generator=draw).mul(8).round() / 4
    logits[:, ::3] = -torch.inf
    logits[:, 1::9] = -0.0
    logits[:, 0] = torch.linspace(-60, 60, 12)
    targets = torch.randint(0, size, (12,), generator=draw)
    native = NativeTokenLogprobs(library)
    for top in sorted({0, 1, min(5, size), size}):
        actual, expected = native(logits, targets, top), token_logprobs(logits, targets, top)
        assert torch.equal(actual[1], expected[1])
        assert torch.equal(actual[2], expected[2])
        torch.testing.assert_close(actual[0], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(actual[3], expected[3], atol=1e-5, rtol=1e-5)
        for row in range(12):
            alone = native(logits[row : row + 1], targets[row : row + 1], top)
            assert all(torch.equal(one[0], all_[row]) for one, all_ in zip(alone, actual, strict=True))


def test_logprobs_are_more_exact_than_single_floats(library):
    logits = torch.randn(1, 150_001, generator=torch.Generator().manual_seed(0)) * 5
    logprobs, _, _, _ = NativeTokenLogprobs(library)(logits, torch.tensor([3]), 0)
    assert float(logprobs[0]) == pytest.approx(float(torch.log_softmax(logits.double(), -1)[0, 3]), abs=2e-7 * 20)


def test_nan_does_not_harm_another_row(library):
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    logits[1, ::2] = math.nan
    targets = torch.tensor([1, 2, 3])
    actual, expected = NativeTokenLogprobs(library)(logits, targets, 9), token_logprobs(logits[::2], targets[::2], 9)
    assert actual[0].isnan().tolist() == [False, True, False]
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got[::2], want, atol=1e-5, rtol=1e-5)


def test_columns_of_another_type_are_refused(library):
    arguments = list(random_rows(0, 4, 50))
    arguments[1] = arguments[1].float()
    with pytest.raises(ValueError, match="float32"):
        NativeSampleTokens(library)(*arguments)
    with pytest.raises(ValueError, match="targets"):
        NativeTokenLogprobs(library)(arguments[0], torch.zeros(3, dtype=torch.int64), 1)
