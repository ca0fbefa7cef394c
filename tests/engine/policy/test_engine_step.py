"""Engine: one step with an injected clock and a stand-in executor; what it refuses; its longest context."""

from __future__ import annotations

import dataclasses
import itertools
import os

import numpy as np
import pytest
from msgspec import structs
from scheduler_harness import FACTS

from engine.batch import NO_TOKEN, ScheduledBatch, StepResult
from engine.block_digests import prompt_chain
from engine.config import EngineConfig
from engine.engine import Engine, longest_context, prompt_share, warm_up
from engine.errors import ConfigurationError
from engine.flight_record import FlightRecord, create, read
from engine.messages import Abort, CacheEvents, Start, Tokens
from engine.patience import LEAST, Patience
from engine.prefill_policy import PromptShare
from engine.sampling_params import SamplingParams
from observability.records import EngineState


class Echo:
    """Samples the number of tokens known."""

    can_be_followed = False

    def __init__(self, depth: int = 1) -> None:
        self.depth = depth
        self.batches: list[ScheduledBatch] = []
        self.under_way: list[ScheduledBatch] = []

    def submit(self, batch: ScheduledBatch) -> None:
        self.batches.append(batch)
        self.under_way.append(batch)
        assert len(self.under_way) <= self.depth

    def collect(self) -> StepResult:
        batch = self.under_way.pop(0)
        ends = batch.context_lens + batch.query_lens
        return StepResult([int(ends[s.row]) for s in batch.samples], [None] * len(batch.samples), [])


def config(**settings: object) -> EngineConfig:
    return EngineConfig(model="", **{"block_size": 4, "max_num_batched_tokens": 16} | settings)


def start(name: str, length: int, **params: object) -> Start:
    return Start(id=name, attempt=0, prompt=[1] * length, params=SamplingParams(**{"max_tokens": 3} | params), seed=0)


def make_engine(**settings: object) -> Engine:
    clock = itertools.count(100.0, 0.5)
    return Engine(config(**settings), Echo(), FACTS, 64, clock=lambda: next(clock))


def test_a_step_reports_what_it_did() -> None:
    engine = make_engine()
    assert engine.start(start("a", 20)) is None
    assert engine.start(start("b", 2)) is None
    first, second, third = (engine.step() for _ in range(3))
    assert (first.started, first.outputs) == (["a"], [])
    (stats,) = first.stats
    assert (stats.step, stats.duration, stats.scheduled_tokens, stats.prompt_tokens) == (0, 1.0, 16, 16)
    assert (stats.plan_time, stats.compute_time, stats.update_time) == (1.0, 0.5, 0.5)
    assert stats.state == EngineState(running=1, waiting=1, blocks_used=4, blocks_total=64)
    assert (stats.generated_tokens, stats.preemptions, stats.prefix_queries, stats.prefix_hits) == (0, 0, 20, 0)
    assert second.started == ["b"]
    assert [(o.id, o.at, o.ids) for o in second.outputs] == [("a", 0, [20]), ("b", 0, [2])]
    # Arrived at 100.0 and 100.5; the first step began at 101.5 and the second took from 104.0 to 105.0.
    a, b = (output.stats for output in second.outputs)
    assert (a.queue_time, a.prefill_time) == (1.5, 3.5) and (b.queue_time, b.prefill_time) == (3.5, 1.0)
    assert (third.stats[0].step, third.stats[0].scheduled_tokens, third.stats[0].prompt_tokens) == (2, 2, 0)
    assert third.stats[0].generated_tokens == 2
    assert engine.steps == 3 and engine.num_pending == 2


def test_the_last_token_leaves_nothing_behind() -> None:
    engine = make_engine()
    engine.start(start("a", 5))
    while engine.num_pending:
        last = engine.step()
    assert [(o.ids, o.finish) for o in last.outputs] == [([7], "length")]
    assert (last.stats[0].state.running, last.stats[0].state.blocks_used) == (0, 0)
    engine.check_integrity()


def test_an_engine_draws_its_pool() -> None:
    engine = make_engine()
    engine.start(start("a", 9))
    engine.step()
    picture = engine.picture(64)
    (only,) = picture.sequences
    assert picture.state == engine.state and picture.cells.count(only.owner) == only.blocks == 3


def test_abort_ends_a_choice() -> None:
    engine = make_engine()
    engine.start(start("a", 5))
    engine.step()
    engine.abort(Abort(id="a", attempt=0))
    assert engine.num_pending == 0


def test_a_step_with_nothing_to_do_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match="0 choices pending"):
        make_engine().step()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (start("a", 0), "The prompt holds no tokens."),
        (start("a", 256), "has 256 tokens of prompt and output so far; the engine's longest context is 256 tokens"),
        (start("a", 1, stop_token_ids=(1, 100)), "stop_token_ids holds a token id outside the vocabulary"),
        (start("a", 1, logit_bias={-1: 1.0}), "logit_bias holds a token id outside the vocabulary"),
        (Start(id="a", attempt=3, prompt=[1, 100], params=SamplingParams(max_tokens=1), seed=0), "prompt holds"),
        (
            Start(id="a", attempt=3, prompt=[1], output_prefix=[2**40], params=SamplingParams(max_tokens=2), seed=0),
            "output_prefix holds a token id outside the vocabulary (0 to 99)",
        ),
    ],
)
def test_what_cannot_be_served_is_rejected_at_the_start(bad: Start, message: str) -> None:
    engine = make_engine()
    rejected = engine.start(bad)
    assert rejected is not None and (rejected.id, rejected.attempt) == ("a", bad.attempt)
    assert message in rejected.message and rejected.no_room == ("longest context" in message)
    assert engine.num_pending == 0


def test_the_longest_request_that_is_not_rejected_fits_an_empty_cache() -> None:
    engine = Engine(config(), Echo(), FACTS, 5)
    assert engine.max_model_len == 20
    assert engine.start(start("a", 20, max_tokens=1)) is not None
    assert engine.start(start("a", 19, max_tokens=1)) is None
    assert [output.finish for output in run(engine)] == ["length"]


def run(engine: Engine) -> list[Tokens]:
    outputs: list[Tokens] = []
    while engine.num_pending:
        outputs += engine.step().outputs
    engine.check_integrity()
    return outputs


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("held", [0, 1, 6, 9])
def test_a_choice_for_a_larger_context_goes_on_and_ends_where_this_one_is_full(attempt: int, held: int) -> None:
    engine = Engine(config(), Echo(), FACTS, 5)
    params = SamplingParams(max_tokens=14, min_tokens=12)
    assert engine.start(Start(id="other", attempt=1, prompt=[2] * 5, params=params, seed=0)) is None
    handed = Start(id="a", attempt=attempt, prompt=[1] * 10, output_prefix=[7] * held, params=params, seed=0)
    assert engine.start(handed) is None
    outputs = [output for output in run(engine) if output.id == "a"]
    assert [(output.at, output.ids) for output in outputs] == [(at, [10 + at]) for at in range(held, 10)]
    assert [output.finish for output in outputs] == [None] * (9 - held) + ["length"]


def test_a_choice_whose_output_just_fills_a_smaller_context_ends_and_one_beyond_it_is_rejected() -> None:
    engine = Engine(config(), Echo(), FACTS, 5)
    full = Start(
        id="a", attempt=2, prompt=[1] * 10, output_prefix=[7] * 10, params=SamplingParams(max_tokens=14), seed=0
    )
    assert engine.start(full) is None
    assert [(output.at, output.ids, output.finish) for output in run(engine)] == [(10, [], "length")]
    rejected = engine.start(structs.replace(full, output_prefix=[7] * 11))
    assert rejected is not None and rejected.no_room
    assert "has 21 tokens of prompt and output so far; the engine's longest context is 20" in rejected.message


@pytest.mark.parametrize(
    ("setting", "blocks", "expected"), [(None, 64, 256), (None, 10, 40), (40, 10, 40), (256, 99, 256)]
)
def test_longest_context(setting: int | None, blocks: int, expected: int) -> None:
    assert longest_context(config(max_model_len=setting), FACTS, blocks) == expected


@pytest.mark.parametrize(
    ("setting", "blocks", "message"),
    [
        (257, 99, "--max-model-len 257 is beyond the model's own 256 tokens"),
        (41, 10, "--max-model-len 41 does not fit the KV cache, which holds 40 tokens"),
        (None, 0, "raise --kv-cache-memory"),
    ],
)
def test_a_longest_context_that_cannot_be_had(setting: int | None, blocks: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        longest_context(config(max_model_len=setting), FACTS, blocks)


@pytest.mark.parametrize(
    ("device", "setting", "expected"),
    [
        ("cpu", None, PromptShare(32, for_each_stream=2, seconds=0.05)),
        ("cuda:0 (X)", None, PromptShare(512)),
        ("cpu", 7, PromptShare(7)),
    ],
)
def test_prompt_tokens_beside_streams(device: str, setting: int | None, expected: PromptShare) -> None:
    facts = dataclasses.replace(FACTS, device=device)
    settings = config(max_num_batched_tokens=512, max_num_mixed_prefill_tokens=setting)
    assert prompt_share(settings, facts) == expected


def test_the_setting_bounds_prompt_tokens_beside_streams() -> None:
    engine = make_engine(max_num_mixed_prefill_tokens=5)
    for name in "ab":
        engine.start(start(name, 1))
    engine.step()
    engine.start(start("c", 12))
    assert engine.step().stats[0].prompt_tokens == 5


@pytest.mark.parametrize(("blocks", "steps"), [(64, 2), (1, 2)])
def test_warm_up_runs_a_prompt_and_a_decode_step(blocks: int, steps: int) -> None:
    executor = Echo()
    warm_up(config(), executor, FACTS, blocks)
    assert len(executor.batches) == steps
    assert executor.batches[0].query_lens[0] > 1 and executor.batches[-1].query_lens[0] == 1


def test_changes_of_the_cache_are_told_where_somebody_asks() -> None:
    silent, telling = make_engine(), make_engine(cache_events=True)
    for engine in (silent, telling):
        engine.start(start("a", 9))
        assert engine.cache_events() is None
        engine.step()
    assert silent.cache_events() is None
    assert telling.cache_events() == CacheEvents(stored=prompt_chain([1] * 9, "", 4), evicted=[])
    assert telling.cache_events() is None


class Ill(Echo):
    """Has no token for the choices whose prompt is a 7."""

    def collect(self) -> StepResult:
        batch, starts = self.under_way[0], np.cumsum(self.under_way[0].query_lens) - self.under_way[0].query_lens
        bad = [batch.input_ids[starts[s.row]] == 7 for s in batch.samples]
        result = super().collect()
        return dataclasses.replace(
            result, token_ids=[NO_TOKEN if ill else token for ill, token in zip(bad, result.token_ids, strict=True)]
        )


def test_a_choice_without_a_token_ends_and_leaves_nothing_to_be_found() -> None:
    engine = Engine(config(cache_events=True), Ill(), FACTS, 64)
    engine.start(start("good", 9))
    bad = Start(id="bad", attempt=2, prompt=[7] * 5, params=SamplingParams(max_tokens=3), seed=0)
    engine.start(bad)
    outputs = [output for _ in range(3) for output in engine.step().outputs]
    assert [(o.id, o.ids, o.finish) for o in outputs if o.id == "good"] == [
        ("good", [9], None),
        ("good", [10], None),
        ("good", [11], "length"),
    ]
    ((ended,)) = [output for output in outputs if output.id == "bad"]
    assert (ended.attempt, ended.at, ended.ids, ended.finish) == (2, 0, [], None)
    assert ended.failure is not None and "NaN" in ended.failure
    assert engine.num_pending == 0
    engine.check_integrity()
    stored = engine.cache_events()
    assert stored is not None and not {*stored.stored} & {*prompt_chain([7] * 5, "", 4)}


def test_a_model_that_computes_nothing_but_nan_fails_the_start() -> None:
    class Broken(Echo):
        def collect(self) -> StepResult:
            return dataclasses.replace(super().collect(), token_ids=[NO_TOKEN])

    with pytest.raises(RuntimeError, match="warm-up: The model computed NaN"):
        warm_up(config(), Broken(), FACTS, 64)


def test_the_record_tells_of_each_step_while_it_is_computed() -> None:
    class Reading(Echo):
        def collect(self) -> StepResult:
            seen.append(read(descriptor))
            return super().collect()

    seen: list[dict[str, tuple[int, ...]] | None] = []
    descriptor = create()
    record = FlightRecord(descriptor)
    engine = Engine(config(), Reading(), FACTS, 64, record=record)
    engine.start(start("a", 20))
    engine.start(start("b", 2))
    for _ in range(3):
        engine.step()
    assert seen == [{"a": (16,)}, {"a": (20,), "b": (2,)}, {"a": (21,), "b": (3,)}]
    os.close(descriptor)


def test_the_record_tells_of_all_steps_under_way_as_each_of_them_begins() -> None:
    class Reading(Echo):
        def submit(self, batch: ScheduledBatch) -> None:
            seen.append(read(descriptor))
            super().submit(batch)

    seen: list[dict[str, tuple[int, ...]] | None] = []
    descriptor = create()
    engine = Engine(config(), Reading(depth=2), FACTS, 64, record=FlightRecord(descriptor))
    for name in "abc":
        engine.start(start(name, 3))
    engine.begin()
    assert read(descriptor) == {"a": (3,), "b": (3,), "c": (3,)}
    engine.prepare()
    engine.compute()
    engine.finish()
    engine.begin()
    assert read(descriptor) == {"c": (3,), "a": (4,), "b": (4,)}
    assert seen == [{"a": (3,), "b": (3,)}, {"a": (3,), "b": (3,), "c": (3,)}, {"c": (3,), "a": (4,), "b": (4,)}]
    os.close(descriptor)


def test_how_long_a_step_may_take_follows_from_those_before() -> None:
    now = itertools.count(0.0, 4.0)
    patience = Patience(lambda: next(now))
    engine = Engine(config(), Echo(), FACTS, 64, patience=patience)
    assert engine.step_limit == LEAST
    for name in "ab":
        engine.start(start(name, 2))
    engine.begin()
    assert engine.step_limit is None
    engine.prepare()
    engine.compute()
    engine.finish()
    assert engine.step_limit == LEAST
    engine.begin()
    assert engine.step_limit == 4.0 * 5
