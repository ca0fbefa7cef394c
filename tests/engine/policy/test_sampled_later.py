"""Sequences whose token comes a step later, as one with a grammar that is still being compiled, lose nothing by it."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_harness import Harness

from engine.batch import LATER, NO_TOKEN, StepResult


def put_off(h: Harness, draw: random.Random, share: float) -> None:
    """Let the stand-in leave out tokens at random."""
    execute = h.executor.execute

    def sometimes(batch: Any) -> StepResult:
        result = execute(batch)
        tokens = [LATER if draw.random() < share else token for token in result.token_ids]
        h.late += tokens.count(LATER)
        return dataclasses.replace(result, token_ids=tokens)

    h.late = 0
    h.executor.execute = sometimes


def begin(h: Harness) -> None:
    for number in range(6):
        params: dict[str, Any] = {"presence_penalty": 0.5} if number % 2 else {"prompt_logprobs": 1}
        h.start(str(number), list(range(number + 1, 5 * number + 3)), max_tokens=5 + number, **params)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.5, 0.9]), blocks=st.sampled_from([12, 16, 64]))
def test_their_tokens_are_the_same(seed, share, blocks):
    undisturbed, disturbed = Harness(num_blocks=64), Harness(num_blocks=blocks)
    begin(undisturbed)
    undisturbed.run()
    begin(disturbed)
    put_off(disturbed, random.Random(seed), share)
    disturbed.run()
    for number in map(str, range(6)):
        assert disturbed.tokens(number) == undisturbed.tokens(number)
        assert disturbed.finish(number) == undisturbed.finish(number)
        first = disturbed.outputs[number][0]
        assert first.prompt_logprobs == undisturbed.outputs[number][0].prompt_logprobs


def test_others_do_not_wait():
    both = Harness()
    both.start("a", [1, 2, 3], max_tokens=6)
    both.start("b", [4, 5, 6], max_tokens=6)
    execute = both.executor.execute

    def without_a(batch: Any) -> StepResult:
        result = execute(batch)
        names = [batch.sequence_ids[sample.row] for sample in batch.samples]
        tokens = [LATER if name == "a" else token for name, token in zip(names, result.token_ids, strict=True)]
        return dataclasses.replace(result, token_ids=tokens)

    both.executor.execute = without_a
    for _ in range(6):
        both.step()
    assert both.finish("b") == "length" and not both.outputs["a"]
    both.executor.execute = execute
    both.run()
    assert len(both.tokens("a")) == 6


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_refusal_ends_one_choice_and_frees_its_blocks(ahead):
    both = Harness()
    both.start("a", [1, 2, 3], max_tokens=9)
    both.start("b", [4, 5, 6], max_tokens=9)
    for _ in range(ahead):
        both.step()
    execute = both.executor.execute

    def refusing(batch: Any) -> StepResult:
        result = execute(batch)
        place = [batch.sequence_ids[sample.row] for sample in batch.samples].index("a")
        tokens = [NO_TOKEN if at == place else token for at, token in enumerate(result.token_ids)]
        return dataclasses.replace(result, token_ids=tokens, refusals={place: "It cannot be."})

    both.executor.execute = refusing
    both.step()
    both.executor.execute = execute
    both.run()
    assert both.outputs["a"][-1].refusal == "It cannot be." and len(both.tokens("a")) == ahead
    assert len(both.tokens("b")) == 9 and both.outputs["b"][-1].refusal is None
    assert both.pool.num_used == 0
