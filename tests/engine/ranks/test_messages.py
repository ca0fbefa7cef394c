"""What crosses between engine and ranks comes out as it went in, and nothing else is taken for it."""

from dataclasses import fields

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.batch import PromptLogprobsRequest, SampleRequest, ScheduledBatch, StepResult
from engine.messages import TokenLogprobs
from engine.ranks.messages import (
    Compute,
    Computed,
    MakeCache,
    MeasureCache,
    RankFailed,
    decode_from_rank,
    decode_to_rank,
    encode,
)
from engine.sampling_params import SamplingParams

IDS = st.integers(0, 2**31 - 1)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 1000),
    temperature=st.floats(0, 2),
    logit_bias=st.dictionaries(IDS, st.floats(-100, 100), max_size=3),
    stop_token_ids=st.lists(IDS, max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 20),
)


def ids(*shape: int):
    return arrays.arrays(np.int32, shape, elements=IDS)


@st.composite
def batches(draw) -> ScheduledBatch:
    count = draw(st.integers(1, 4))
    tokens, blocks = draw(st.integers(count, 20)), draw(st.integers(1, 4))
    maybe = st.none() | st.integers(0, 5).flatmap(ids)
    samples = [
        SampleRequest(row, draw(PARAMS), draw(st.integers(0, 2**64 - 1)), 1, 2, draw(maybe), draw(maybe))
        for row in range(draw(st.integers(0, count)))
    ]
    scores = [PromptLogprobsRequest(0, 3, draw(ids(4)))] if draw(st.booleans()) else []
    return ScheduledBatch(
        step=draw(st.integers(0, 2**40)),
        sequence_ids=tuple(draw(st.lists(st.text(), min_size=count, max_size=count))),
        input_ids=draw(ids(tokens)),
        query_lens=draw(ids(count)),
        context_lens=draw(ids(count)),
        block_tables=draw(ids(count, blocks)),
        samples=tuple(samples),
        prompt_logprobs=tuple(scores),
    )


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, SampleRequest | PromptLogprobsRequest):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    return one == other


@settings(deadline=None)
@given(batches())
def test_a_batch(batch):
    found = decode_to_rank(encode(Compute(batch)))
    assert isinstance(found, Compute)
    for field in fields(ScheduledBatch):
        assert same(getattr(batch, field.name), getattr(found.batch, field.name)), field.name


def test_a_result():
    scores = TokenLogprobs(logprob=-0.1, rank=1, top_ids=[3], top_logprobs=[-0.1])
    result = StepResult([3, 4], [scores, None], [[scores], []])
    assert decode_from_rank(encode(Computed(result))) == Computed(result)


@pytest.mark.parametrize("message", [MeasureCache(), MakeCache(7)])
def test_orders(message):
    assert decode_to_rank(encode(message)) == message


def test_the_two_directions_are_not_taken_for_each_other():
    with pytest.raises(msgspec.ValidationError):
        decode_from_rank(encode(MeasureCache()))
    with pytest.raises(msgspec.ValidationError):
        decode_to_rank(encode(RankFailed("x", "fault")))


def test_an_array_of_another_type_is_not_sent():
    with pytest.raises(NotImplementedError):
        encode(Compute(np.zeros(3)))


def test_block_tables_that_fit_no_sequences_are_refused():
    raw = msgspec.msgpack.decode(encode(Compute(batches_of_two())))
    raw["batch"]["block_tables"] = np.zeros(3, np.int32).tobytes()
    with pytest.raises(ValueError, match="cannot reshape"):
        decode_to_rank(msgspec.msgpack.encode(raw))


def batches_of_two() -> ScheduledBatch:
    two = np.ones(2, np.int32)
    return ScheduledBatch(0, ("a", "b"), two, two, two, np.ones((2, 3), np.int32), ())
