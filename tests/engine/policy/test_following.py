"""Steps that begin before the tokens of the last one are known, over the production Engine: nobody's tokens change."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from scheduler_harness import FACTS, Answer, Harness, alone, check

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.engine import Engine
from engine.flight_record import FlightRecord, create, read
from engine.messages import Abort, Start, Tokens
from engine.sampling_params import SamplingParams

BLOCK_SIZE = 4
STOPS = tuple(range(0, 97, 5))


class Device:
    """The stand-in's model on a device that keeps its tokens. ``at_once``: it computes what it is given at once, or
    else as late as it may, when it is waited for."""

    depth = 1

    def __init__(self, simulated: Any, at_once: bool, allows: Callable[[], bool]) -> None:
        self.simulated, self.at_once, self.allows = simulated, at_once, allows
        self.under_way: deque[tuple[ScheduledBatch, list[StepResult]]] = deque()
        self.tokens: dict[int, int] = {}
        """Row → token, of the step that was computed last."""
        self.followed = 0

    @property
    def can_be_followed(self) -> bool:
        return all(sample.output_ids is None for sample in self.under_way[-1][0].samples) and self.allows()

    def submit(self, batch: ScheduledBatch) -> None:
        if self.under_way:
            self.followed += 1
        else:
            assert batch.carried is None
        self.under_way.append((batch, []))
        assert len(self.under_way) <= 2
        if self.at_once:
            self.under_way[-1][1].append(self.compute(batch))

    def collect(self) -> StepResult:
        batch, results = self.under_way.popleft()
        return results[0] if results else self.compute(batch)

    def compute(self, batch: ScheduledBatch) -> StepResult:
        if batch.carried is not None:
            count = len(batch.carried)
            assert batch.query_lens[:count].tolist() == [1] * count
            assert all(sample.output_ids is None for sample in batch.samples if sample.row < count)
            ids = [self.tokens[row] for row in batch.carried.tolist()]
            batch = replace(batch, input_ids=np.concatenate([np.array(ids, np.int32), batch.input_ids[count:]]))
        result = self.simulated.execute(batch)
        rows = [sample.row for sample in batch.samples]
        self.tokens = dict(zip(rows, result.token_ids, strict=True))
        return result


def always() -> bool:
    return True


def make(
    *, num_blocks: int = 64, at_once: bool = True, allows: Callable[[], bool] = always, **config: Any
) -> tuple[Engine, Device]:
    device = Device(Harness(num_blocks=num_blocks, block_size=BLOCK_SIZE).executor, at_once, allows)
    record = config.pop("record", None)
    limits = {"max_num_batched_tokens": 16, "max_num_seqs": 8} | config
    return Engine(
        EngineConfig(model="", block_size=BLOCK_SIZE, **limits), device, FACTS, num_blocks, record=record
    ), device


def start(name: str, prompt: list[int], **params: Any) -> Start:
    params = {"max_tokens": 6} | params
    return Start(id=name, attempt=0, prompt=prompt, params=SamplingParams(**params), seed=5)


def run(engine: Engine) -> list[Tokens]:
    outputs = []
    while engine.is_busy:
        outputs += engine.step().outputs
    engine.check_integrity()
    return outputs


def test_streams_go_on_without_a_wait() -> None:
    engine, device = make()
    begun = [start(name, [number, 2, 3], max_tokens=30) for number, name in enumerate("abc")]
    for each in begun:
        engine.start(each)
    outputs = run(engine)
    for each in begun:
        assert [token for output in outputs if output.id == each.id for token in output.ids] == alone(each).tokens
    assert engine.steps == 30 and device.followed == 29


def test_one_that_has_ended_is_computed_once_too_often_and_says_nothing() -> None:
    tokens = alone(start("a", [1, 2, 3], max_tokens=9)).tokens
    engine, device = make()
    engine.start(start("a", [1, 2, 3], max_tokens=9, stop_token_ids=(tokens[4],)))
    outputs = [engine.step().outputs for _ in range(tokens.index(tokens[4]) + 1)]
    assert outputs[-1][0].finish == "stop" and engine.num_pending == 0
    assert engine.is_busy and engine.state.blocks_used == 0
    last = engine.step()
    assert last.outputs == [] and last.stats[0].generated_tokens == 0
    assert not engine.is_busy and not device.under_way


def test_what_ends_by_its_length_is_not_computed_too_often() -> None:
    engine, _ = make()
    engine.start(start("a", [1, 2, 3], max_tokens=4))
    run(engine)
    assert engine.steps == 4


def test_a_prompt_in_chunks_is_waited_for() -> None:
    engine, device = make()
    engine.start(start("a", list(range(40)), max_tokens=3))
    engine.step()
    engine.step()
    assert device.followed == 0
    engine.begin()
    assert len(device.under_way) == 2


def test_arrivals_join_the_step_that_follows() -> None:
    engine, device = make()
    engine.start(start("a", [1, 2, 3]))
    engine.begin()
    engine.start(start("b", [4, 5, 6]))
    engine.compute()
    engine.finish()
    engine.begin()
    assert [batch.sequence_ids for batch, _ in device.under_way] == [("a",), ("a", "b")]


def test_where_blocks_are_too_few_the_step_is_waited_for() -> None:
    engine, device = make(num_blocks=5)
    begun = [start(name, [number] * 8, max_tokens=8) for number, name in enumerate("ab")]
    for each in begun:
        engine.start(each)
    engine.begin()
    assert len(device.under_way) == 1
    outputs = run(engine)
    for each in begun:
        assert [token for output in outputs if output.id == each.id for token in output.ids] == alone(each).tokens


def test_beside_a_suspect_each_step_is_waited_for() -> None:
    """So that the record has one position of it."""
    descriptor = create()
    engine, device = make(record=FlightRecord(descriptor))
    engine.start(structs.replace(start("a", [1, 2, 3]), at_once=True))
    engine.begin()
    assert len(device.under_way) == 1 and read(descriptor) == {"a": (3,)}
    engine.compute()
    engine.finish()
    engine.start(start("b", [1, 2, 3]))
    engine.begin()
    assert len(device.under_way) == 2 and read(descriptor) == {"a": (4, 5), "b": (3, 4)}, "who is in two"
    os.close(descriptor)


def test_a_step_s_time_begins_when_the_one_before_it_ends() -> None:
    now = 0.0

    class Slow(Device):
        def collect(self) -> StepResult:
            nonlocal now
            now += 1.0
            return super().collect()

    device = Slow(Harness(num_blocks=64, block_size=BLOCK_SIZE).executor, True, always)
    config = EngineConfig(model="", block_size=BLOCK_SIZE, max_num_batched_tokens=16, max_num_seqs=8)
    engine = Engine(config, device, FACTS, 64, clock=lambda: now)
    engine.start(start("a", [1, 2, 3]))
    assert [engine.step().stats[0].duration for _ in range(5)] == [1.0] * 5


prompts = st.builds(
    lambda family, length, tail: [family + i for i in range(length)] + tail,
    st.sampled_from([0, 40]),
    st.integers(1, 14),
    st.lists(st.integers(90, 92), max_size=2),
)
params = st.fixed_dictionaries(
    {"max_tokens": st.integers(0, 9), "min_tokens": st.integers(0, 2)},
    optional={
        "prompt_logprobs": st.just(0),
        "logprobs": st.just(0),
        "repetition_penalty": st.just(1.5),
        "stop_token_ids": st.just(STOPS),
    },
)


@settings(max_examples=100, deadline=None)
@given(
    at_once=st.booleans(),
    share=st.sampled_from([1.0, 1.0, 0.7]),
    num_blocks=st.integers(6, 20),
    budget=st.integers(1, 16),
    seats=st.integers(1, 6),
    caching=st.booleans(),
    choices=st.lists(
        st.tuples(prompts, params, st.integers(0, 20), st.none() | st.tuples(st.integers(0, 15), st.booleans())),
        min_size=1,
        max_size=8,
    ),
)
def test_random_lives(at_once, share, num_blocks, budget, seats, caching, choices) -> None:
    """Each choice has a prompt, parameters, the step it arrives in, and how many steps later it is aborted: before that
    step is planned or while it is computed."""
    draw = random.Random(len(choices))
    engine, _ = make(
        num_blocks=num_blocks,
        at_once=at_once,
        allows=lambda: draw.random() < share,
        max_num_batched_tokens=budget,
        max_num_seqs=seats,
        enable_prefix_caching=caching,
    )
    expected: dict[str, Answer] = {}
    said: dict[str, list[Tokens]] = {}
    aborted: set[str] = set()
    step = 0

    def act(computing: bool) -> None:
        for number, (prompt, params, arrival, leaves) in enumerate(choices):
            begun = start(str(number), prompt, **params)
            if arrival == step and number % 2 == computing:
                expected[begun.id] = alone(begun)
                said[begun.id] = []
                engine.start(begun)
            if leaves is not None and arrival + leaves[0] == step and leaves[1] == computing and begun.id in expected:
                engine.abort(Abort(id=begun.id, attempt=0))
                aborted.add(begun.id)

    while engine.is_busy or step <= 20:
        act(computing=False)
        if engine.is_busy:
            engine.begin()
            engine.prepare()
            act(computing=True)
            engine.compute()
            for output in engine.finish().outputs:
                said[output.id].append(output)
            check(engine._scheduler)
        else:
            act(computing=True)
        step += 1
        assert step < 2000, "starved"
    assert engine.state.blocks_used == 0
    for name, answer in expected.items():
        held = [token for output in said[name] for token in output.ids]
        ends = [output.finish for output in said[name] if output.finish is not None]
        if name in aborted and not ends:
            assert held == answer.tokens[: len(held)]
        else:
            assert (held, ends) == (answer.tokens, [answer.finish])
        if said[name]:
            assert said[name][0].prompt_logprobs == answer.prompt_logprobs
