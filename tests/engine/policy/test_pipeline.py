"""Several steps at once, over the production Engine: no sequence is in two of them, and nobody's tokens change."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_harness import FACTS, Harness, alone, check

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.engine import Engine
from engine.messages import Abort, Start, Tokens
from engine.sampling_params import SamplingParams

BLOCK_SIZE = 4


class Stages:
    """The stand-in's model in ``depth`` stages: a step is computed as late as it may be, when it is collected."""

    can_be_followed = False

    def __init__(self, simulated: Any, depth: int) -> None:
        self.simulated, self.depth = simulated, depth
        self.under_way: deque[ScheduledBatch] = deque()
        self.fullest = 0

    def submit(self, batch: ScheduledBatch) -> None:
        for other in self.under_way:
            assert not set(other.sequence_ids) & set(batch.sequence_ids), "a sequence is in two steps"
            assert other.step < batch.step
        self.under_way.append(batch)
        assert len(self.under_way) <= self.depth
        self.fullest = max(self.fullest, len(self.under_way))

    def collect(self) -> StepResult:
        return self.simulated.execute(self.under_way.popleft())

    def check(self) -> None:
        raise AssertionError("there is work")


def make(depth: int, num_blocks: int = 64, **config: int) -> tuple[Engine, Stages]:
    stages = Stages(Harness(num_blocks=num_blocks, block_size=BLOCK_SIZE).executor, depth)
    limits = {"max_num_batched_tokens": 16, "max_num_seqs": 8} | config
    return Engine(EngineConfig(model="", block_size=BLOCK_SIZE, **limits), stages, FACTS, num_blocks), stages


def start(name: str, prompt: list[int], max_tokens: int = 6) -> Start:
    return Start(id=name, attempt=0, prompt=prompt, params=SamplingParams(max_tokens=max_tokens), seed=5)


def take(said: dict[str, list[int]], outputs: list[Tokens]) -> None:
    for output in outputs:
        said.setdefault(output.id, []).extend(output.ids)


def test_streams_are_shared_by_the_steps() -> None:
    engine, stages = make(2)
    for name in "abcdef":
        engine.start(start(name, [1, 2, 3], max_tokens=30))
    for _ in range(8):
        engine.step()
    engine.begin()
    assert [len(batch.sequence_ids) for batch in stages.under_way] == [3, 3]
    assert {name for batch in stages.under_way for name in batch.sequence_ids} == set("abcdef")


def test_one_stream_leaves_the_other_stages_idle_and_goes_on() -> None:
    engine, stages = make(3)
    engine.start(begun := start("a", [1, 2, 3]))
    said: dict[str, list[int]] = {}
    while engine.is_busy:
        take(said, engine.step().outputs)
    assert said == {"a": alone(begun).tokens} and stages.fullest == 1
    engine.check_integrity()


def test_steps_get_even_again_when_streams_end() -> None:
    engine, stages = make(2)
    for name, tokens in zip("abcdef", [60, 60, 60, 3, 3, 60], strict=True):
        engine.start(start(name, [1, 2, 3], max_tokens=tokens))
    for _ in range(24):
        engine.step()
    engine.begin()
    assert sorted(len(batch.sequence_ids) for batch in stages.under_way) == [2, 2]


def test_what_is_aborted_in_a_step_under_way_is_silent_and_its_step_is_still_ended() -> None:
    engine, stages = make(2)
    for name in "ab":
        engine.start(start(name, [1, 2, 3]))
    engine.begin()
    assert len(stages.under_way) == 2
    for name in "ab":
        engine.abort(Abort(id=name, attempt=0))
    assert engine.num_pending == 0 and engine.is_busy
    while engine.is_busy:
        assert engine.step().outputs == []
    assert not stages.under_way
    engine.check_integrity()


def test_the_youngest_is_not_preempted_while_it_is_under_way() -> None:
    """Six blocks: the older stream runs out of room while the younger one is in the other step."""
    engine, _ = make(2, num_blocks=6)
    begun = [start("old", [1] * 8, max_tokens=14), start("young", [2] * 8, max_tokens=14)]
    said: dict[str, list[int]] = {}
    preemptions = 0
    for each in begun:
        engine.start(each)
    while engine.is_busy:
        output = engine.step()
        take(said, output.outputs)
        preemptions += sum(stats.preemptions for stats in output.stats)
        check(engine._scheduler)
    assert preemptions > 0
    assert said == {each.id: alone(each).tokens for each in begun}
    engine.check_integrity()


prompts = st.builds(
    lambda family, length, tail: [family + i for i in range(length)] + tail,
    st.sampled_from([0, 40]),
    st.integers(1, 14),
    st.lists(st.integers(90, 92), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(
    depth=st.integers(1, 4),
    num_blocks=st.integers(6, 20),
    budget=st.integers(1, 16),
    seats=st.integers(1, 6),
    caching=st.booleans(),
    choices=st.lists(
        st.tuples(prompts, st.integers(1, 7), st.integers(0, 20), st.none() | st.integers(1, 15)),
        min_size=1,
        max_size=8,
    ),
)
def test_random_lives(depth, num_blocks, budget, seats, caching, choices) -> None:
    """Each choice has a prompt, its most tokens, the step it arrives before and how many steps later it is aborted."""
    config = {"max_num_batched_tokens": budget, "max_num_seqs": seats, "enable_prefix_caching": caching}
    engine, _ = make(depth, num_blocks, **config)
    expected, said, aborted = {}, {}, set()
    step = 0
    while engine.is_busy or step <= 20:
        for number, (prompt, max_tokens, arrival, life) in enumerate(choices):
            begun = start(f"c{number}", prompt, max_tokens)
            if arrival == step:
                assert engine.start(begun) is None
                expected[begun.id] = alone(begun).tokens
            if life is not None and arrival + life == step:
                engine.abort(Abort(id=begun.id, attempt=0))
                aborted.add(begun.id)
        if engine.is_busy:
            take(said, engine.step().outputs)
            check(engine._scheduler)
        step += 1
        assert step < 2000, "starved"
    for name, tokens in expected.items():
        assert said.get(name, []) == (tokens[: len(said.get(name, []))] if name in aborted else tokens)


def test_an_engine_with_nothing_to_begin_or_end_is_not_stepped() -> None:
    engine, _ = make(2)
    with pytest.raises(RuntimeError, match="0 choices pending"):
        engine.step()
