"""The sampler: what each parameter does, and that a row's token follows from that row alone."""

import math
import random

import msgspec
import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from engine.batch import NO_TOKEN, SampleRequest
from engine.sampling_params import SamplingParams
from engine.worker.grammar_mask import GrammarMasks
from engine.worker.logits import adjust
from engine.worker.sampler import InvalidLogitsError, Sampler
from engine.worker.transfers import HostTransfers
from kernels.registry import Kernels, Machine

VOCAB = 203


@pytest.fixture
def sampler() -> Sampler:
    masks = GrammarMasks(no_compiler, VOCAB, 5000)
    device = torch.device("cpu")
    return Sampler(Kernels(Machine.detect(device)), VOCAB, 5000, device, masks, HostTransfers())


def no_compiler():
    raise AssertionError("nothing here has a grammar")


def request(row=0, *, seed=1, choice=0, position=0, prompt=(), output=(), **params) -> SampleRequest:
    return SampleRequest(
        row=row,
        params=SamplingParams(max_tokens=99, **params),
        seed=seed,
        choice=choice,
        position=position,
        prompt_ids=np.array(prompt, dtype=np.int32),
        output_ids=np.array(output, dtype=np.int32),
    )


def sample(sampler, logits, requests):
    """Tokens and log-probabilities, a request for each row of logits."""
    requests = [msgspec.structs.replace(each, row=row) for row, each in enumerate(requests)]
    sampler.prepare(requests, len(logits))
    greedy = all(each.params.greedy for each in requests)
    return sampler.finish(sampler.launch(sampler.draw(logits, greedy=greedy), requests))[:2]


def random_logits(rows, seed=0, spread=2.0):
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


# --- greedy -----------------------------------------------------------------------------------------------


def test_greedy_takes_the_likeliest_and_the_lowest_id_of_equals(sampler):
    logits = torch.zeros(3, VOCAB)
    logits[1, 7] = logits[1, 150] = 2.0
    logits[2, 202] = 1.0
    requests = [request(row, temperature=0.0) for row in range(3)]
    assert sample(sampler, logits, requests)[0] == [0, 7, 202]


def test_filters_do_not_change_greedy(sampler):
    logits = random_logits(1)
    asked = request(temperature=0.0, top_k=3, top_p=0.1, min_p=0.5)
    assert sample(sampler, logits, [asked])[0] == [int(logits.argmax())]


# --- drawing ----------------------------------------------------------------------------------------------


def frequencies(sampler, logits, draws, **params):
    requests = [request(row, seed=99, position=row, **params) for row in range(draws)]
    tokens = sample(sampler, logits.expand(draws, -1), requests)[0]
    return torch.bincount(torch.tensor(tokens), minlength=VOCAB).double()


@pytest.mark.parametrize(
    ("temperature", "filters"),
    [(1.0, {}), (0.5, {}), (2.0, {"top_k": 8}), (1.0, {"top_p": 0.8}), (1.3, {"min_p": 0.2})],
)
def test_draws_follow_the_distribution(sampler, temperature, filters):
    """Chi-square over tokens expected five times or more; the bound is five standard deviations (seeds are fixed)."""
    logits, draws = random_logits(1, seed=4), 4000
    counts = frequencies(sampler, logits, draws, temperature=temperature, **filters)
    weights = torch.softmax(logits[0].double() / temperature, -1)
    allowed = counts > 0 if filters else torch.ones(VOCAB, dtype=torch.bool)
    if "top_k" in filters:
        allowed = torch.zeros(VOCAB, dtype=torch.bool).index_fill_(0, weights.topk(8).indices, True)
    if "top_p" in filters:
        order = weights.argsort(descending=True)
        kept = order[weights[order].cumsum(-1) - weights[order] < 0.8]
        allowed = torch.zeros(VOCAB, dtype=torch.bool).index_fill_(0, kept, True)
    if "min_p" in filters:
        allowed = weights >= 0.2 * weights.max()
    assert counts[~allowed].sum() == 0
    expected = torch.where(allowed, weights, 0.0)
    expected = expected / expected.sum() * draws
    common = expected >= 5
    statistic = float(((counts - expected)[common] ** 2 / expected[common]).sum())
    freedom = int(common.sum()) - 1
    assert freedom > 3
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("differing", [{"seed": 2}, {"choice": 1}, {"position": 1}])
def test_seed_choice_and_position_each_give_other_noise(sampler, differing):
    logits = torch.zeros(64, VOCAB)
    base = {"seed": 1, "choice": 0, "position": 0}
    first = sample(sampler, logits[:1], [request(**base)])[0]
    assert sample(sampler, logits[:1], [request(**base)])[0] == first
    others = [request(row, **(base | {name: base[name] + row for name in differing})) for row in range(64)]
    tokens = sample(sampler, logits, others)[0]
    assert tokens[0] == first[0]
    assert len(set(tokens)) > 40


def test_seeds_are_64_bits_unsigned(sampler):
    logits = torch.zeros(4, VOCAB)
    seeds = [0, 2**63, 2**64 - 1, 2**32]
    tokens = sample(sampler, logits, [request(row, seed=seed) for row, seed in enumerate(seeds)])[0]
    assert len(set(tokens)) == 4


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 5e-324])
def test_a_tiny_temperature_is_nearly_greedy_and_never_nan(sampler, temperature):
    logits = random_logits(5)
    requests = [request(row, temperature=temperature, top_p=0.9) for row in range(5)]
    assert sample(sampler, logits, requests)[0] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e30, 1e300])
def test_a_huge_temperature_is_nearly_uniform(sampler, temperature):
    counts = frequencies(sampler, random_logits(1), 2000, temperature=temperature, min_tokens=1, stop_token_ids=(5,))
    assert int((counts > 0).sum()) > 190


# --- independence -----------------------------------------------------------------------------------------


def mixed_requests():
    """Rows with all sorts of parameters."""
    draw = random.Random(11)
    menu = [
        {"temperature": 0.0},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.6, "temperature": 1.4},
        {"min_p": 0.1},
        {"top_k": 30, "top_p": 0.9, "min_p": 0.02, "temperature": 0.8},
        {"repetition_penalty": 1.4, "temperature": 0.0},
        {"presence_penalty": 0.8, "frequency_penalty": -0.4},
        {"logit_bias": {3: 5.0, 17: -100.0}},
        {"min_tokens": 4, "stop_token_ids": (2, 9)},
        {"logprobs": 3},
        {"logprobs": 0, "temperature": 0.0},
    ]
    return [
        request(
            row,
            seed=draw.getrandbits(64),
            choice=draw.randrange(4),
            position=draw.randrange(8),
            prompt=draw.choices(range(VOCAB), k=draw.randrange(9)),
            output=draw.choices(range(VOCAB), k=draw.randrange(9)),
            **draw.choice(menu),
        )
        for row in range(60)
    ]


def test_a_row_does_not_depend_on_the_rows_beside_it(sampler):
    logits, requests = random_logits(60), mixed_requests()
    together = sample(sampler, logits, requests)
    for row, each in enumerate(requests):
        tokens, logprobs = sample(sampler, logits[row : row + 1], [each])
        assert (tokens[0], logprobs[0]) == (together[0][row], together[1][row])
    order = random.Random(3).sample(range(60), 60)
    shuffled = sample(sampler, logits[order], [requests[row] for row in order])
    assert shuffled[0] == [together[0][row] for row in order]
    assert shuffled[1] == [together[1][row] for row in order]


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2, 3], [5]])
def test_rows_that_nobody_samples_change_nothing(sampler, rows):
    logits = random_logits(6)
    requests = [request(row, seed=row, logprobs=2, top_k=20) for row in rows]
    sampler.prepare(requests, 6)
    found = sampler.finish(sampler.launch(sampler.draw(logits), requests))[:2]
    assert found == sample(sampler, logits[rows], requests)


def test_rows_are_greedy_again_once_nobody_draws_them(sampler):
    logits = random_logits(3)
    sampler.prepare([request(row, temperature=9.0) for row in range(3)], 3)
    sampler.prepare([request(1, temperature=9.0)], 3)
    assert sampler.draw(logits).tokens[::2].tolist() == logits[::2].argmax(-1).tolist()


def test_logits_are_not_changed(sampler):
    logits = random_logits(60)
    before = logits.clone()
    sample(sampler, logits, mixed_requests())
    assert torch.equal(logits, before)


# --- adjustments ------------------------------------------------------------------------------------------


def test_nothing_to_adjust_costs_no_copy():
    logits = random_logits(2)
    assert adjust(logits, [request(0), request(1, stop_token_ids=(2,))]) is logits


def test_logit_bias():
    logits = random_logits(3)
    expected = logits.clone()
    expected[0, 5] += 2.5
    expected[2, [1, 202]] += torch.tensor([-100.0, 100.0])
    requests = [request(0, logit_bias={5: 2.5}), request(1), request(2, logit_bias={1: -100.0, 202: 100.0})]
    assert torch.equal(adjust(logits, requests), expected)


def test_repetition_penalty_is_that_of_transformers():
    logits = random_logits(2)
    prompt, output = [3, 3, 8, 100], [8, 50, 202]
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt + output]), logits[1:].clone())
    ours = adjust(logits, [request(0), request(1, repetition_penalty=1.7, prompt=prompt, output=output)])
    assert torch.equal(ours[1:], theirs)
    assert torch.equal(ours[0], logits[0])


def test_presence_and_frequency_penalties_count_output_alone():
    logits = random_logits(1)
    asked = request(presence_penalty=0.5, frequency_penalty=0.25, prompt=[1, 2], output=[2, 9, 9, 9])
    expected = logits.clone()
    expected[0, 2] -= 0.5 + 0.25
    expected[0, 9] -= 0.5 + 3 * 0.25
    torch.testing.assert_close(adjust(logits, [asked]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("penalty", [1e-300, 1e-38, 1e38, 1e300])
def test_an_extreme_penalty_stays_finite(penalty):
    logits = random_logits(1, spread=100.0)
    logits[0, 0] = 0.0
    asked = request(repetition_penalty=penalty, prompt=range(VOCAB))
    assert adjust(logits, [asked]).isfinite().all()


def test_penalties_before_any_output():
    logits = random_logits(1)
    asked = request(presence_penalty=1.0, frequency_penalty=1.0, repetition_penalty=1.0, prompt=[4])
    assert torch.equal(adjust(logits, [asked]), logits)


def test_the_order_is_bias_then_repetition_then_presence():
    logits = torch.zeros(1, VOCAB)
    asked = request(logit_bias={7: 4.0}, repetition_penalty=2.0, presence_penalty=1.0, output=[7])
    assert float(adjust(logits, [asked])[0, 7]) == 4.0 / 2.0 - 1.0


def test_no_stop_token_before_min_tokens(sampler):
    logits = random_logits(1)
    logits[0, [2, 9]] = torch.tensor([50.0, 49.0])
    asked = {"temperature": 0.0, "min_tokens": 3, "stop_token_ids": (2, 9)}
    best_other = int(logits[0].argsort(descending=True)[2])
    for position in range(3):
        assert sample(sampler, logits, [request(position=position, **asked)])[0] == [best_other]
    assert sample(sampler, logits, [request(position=3, **asked)])[0] == [2]


def test_a_bias_cannot_bring_back_a_stop_token_before_min_tokens(sampler):
    asked = request(temperature=0.0, min_tokens=1, stop_token_ids=(2,), logit_bias={2: 100.0})
    assert sample(sampler, torch.zeros(1, VOCAB), [asked])[0] == [0]


# --- logprobs ---------------------------------------------------------------------------------------------


def test_logprobs_are_the_models_own(sampler):
    """Before bias, penalties, temperature and filters."""
    logits = random_logits(1)
    asked = request(temperature=0.3, top_k=2, logit_bias={11: 100.0}, logprobs=4)
    (token,), (entry,) = sample(sampler, logits, [asked])
    expected = torch.log_softmax(logits[0].double(), -1)
    order = expected.argsort(descending=True)
    assert token == 11
    assert entry.logprob == pytest.approx(float(expected[11]), abs=1e-5)
    assert entry.rank == order.tolist().index(11) + 1
    assert entry.top_ids == order[:4].tolist()
    assert entry.top_logprobs == pytest.approx(expected[order[:4]].tolist(), abs=1e-5)


def test_each_row_gets_as_many_logprobs_as_it_asked_for(sampler):
    requests = [request(0, logprobs=0), request(1), request(2, logprobs=5), request(3, logprobs=VOCAB + 7)]
    _, entries = sample(sampler, random_logits(4), requests)
    assert [None if entry is None else len(entry.top_ids) for entry in entries] == [0, None, 5, VOCAB]


# --- faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("adjusted", [{}, {"logit_bias": {3: 5.0}}])
def test_a_row_of_bad_logits_has_no_token_and_the_others_have_theirs(sampler, value, adjusted):
    logits = random_logits(10)
    requests = [request(4, temperature=0.0, **adjusted), request(7, logprobs=1), request(9, logprobs=2)]
    sampler.prepare(requests, 10)
    well, scores = sampler.finish(sampler.launch(sampler.draw(logits), requests))[:2]
    logits[1, 5] = logits[7, 5] = value
    sampler.prepare(requests, 10)
    token_ids, logprobs = sampler.finish(sampler.launch(sampler.draw(logits), requests))[:2]
    assert token_ids == [well[0], NO_TOKEN, well[2]]
    assert logprobs == [None, None, scores[2]]


def test_a_row_without_any_finite_logit_has_no_token(sampler):
    assert sample(sampler, torch.full((1, VOCAB), -torch.inf), [request()]) == ([NO_TOKEN], [None])


def test_where_every_row_is_bad_the_engine_is(sampler):
    with pytest.raises(InvalidLogitsError, match="all 2 rows"):
        sample(sampler, torch.full((2, VOCAB), math.nan), [request(0), request(1)])
