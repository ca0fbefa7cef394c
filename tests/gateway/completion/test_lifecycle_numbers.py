"""What the lifecycle counts and records."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import tokenizers_for_tests as families
from engine_for_tests import EOS, STATS, FakeEngine, make_request, text_and_end
from lifecycle_world import ABC, World

from engine.messages import Idle, Rejected, StepOutput, Tokens
from gateway.completion.events import Completed, Usage
from gateway.completion.lifecycle import Lifecycle
from gateway.errors import APIError
from observability.records import ChoiceStats, EngineState, InterTokenLatencies, RequestStats, StepStats


@pytest.fixture
def world() -> World:
    return World()


async def test_queued_counts_until_the_engine_begins_any_choice(world: World) -> None:
    lifecycle = world.lifecycle
    lifecycle.submit(make_request("a", n=2))
    streams = [lifecycle.submit(make_request(name)) for name in ("b", "c", "d")]
    assert (lifecycle.queued_requests, lifecycle.queued_tokens, lifecycle.running_requests) == (4, 12, 0)
    world.engine.step(started=("a:1", "b:0"))
    assert (lifecycle.queued_requests, lifecycle.queued_tokens, lifecycle.running_requests) == (2, 6, 2)
    world.engine.step(started=("a:0",))
    world.engine.say("c:0", 0, ABC[0])
    assert (lifecycle.queued_requests, lifecycle.queued_tokens, lifecycle.running_requests) == (1, 3, 3)
    for stream in streams:
        stream.cancel()
    assert (lifecycle.queued_requests, lifecycle.queued_tokens, lifecycle.running_requests) == (0, 0, 1)


async def test_request_stats_are_measured_on_the_gateways_clock(world: World) -> None:
    world.lifecycle.submit(make_request(tenant="acme", max_tokens=3))
    stats = ChoiceStats(queue_time=0.1, prefill_time=0.2, cached_tokens=2)
    for at, time in enumerate((1.0, 1.5, 3.0)):
        world.clock.time = 100 + time
        world.engine.say("r:0", at, ABC[at], stats=None if at else stats)
    assert world.ended == [
        RequestStats(
            tenant="acme",
            finish_reason="length",
            prompt_tokens=3,
            cached_tokens=2,
            generated_tokens=3,
            queue_time=0.1,
            prefill_time=0.2,
            time_to_first_token=1.0,
            time_per_output_token=1.0,
            decode_time=2.0,
            longest_gap=1.5,
            end_to_end=3.0,
            max_tokens=3,
            longest_choice=3,
        )
    ]


async def test_a_pause_is_measured_from_the_last_token_before_a_loss_to_the_first_after_it(world: World) -> None:
    world.lifecycle.submit(make_request(max_tokens=3))
    world.clock.time = 101.0
    world.engine.say("r:0", 0, ABC[0])
    world.engine.lose()
    engine = world.restart()
    world.clock.time = 105.0
    engine.say("r:0", 1, ABC[1], attempt=2)
    world.clock.time = 105.5
    engine.say("r:0", 2, ABC[2], attempt=2)
    (stats,) = world.ended
    assert (stats.pauses, stats.longest_gap, stats.decode_time) == ([4.0], 4.0, 4.5)


async def test_a_request_of_a_trace_says_so_in_its_stats(world: World) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    world.lifecycle.submit(replace(make_request(max_tokens=1), traceparent=traceparent))
    world.engine.say("r:0", 0, ABC[0])
    assert [stats.trace_id for stats in world.ended] == ["0af7651916cd43dd8448eb211c80319c"]


async def test_gaps_of_a_step_come_in_one_record(world: World) -> None:
    for name in ("a", "b"):
        world.lifecycle.submit(make_request(name))
    for at, time in enumerate((1.0, 1.5)):
        world.clock.time = 100 + time
        world.engine.step(*(Tokens(id=f"{name}:0", attempt=1, at=at, ids=[ABC[0]]) for name in ("a", "b")))
    gaps = [record.values for record in world.records if isinstance(record, InterTokenLatencies)]
    assert gaps == [[0.5, 0.5]]
    assert sum(isinstance(record, StepStats) for record in world.records) == 2


async def test_tokens_that_arrive_together_share_the_gap(world: World) -> None:
    stream = world.lifecycle.submit(make_request("a"))
    for at, (time, count) in enumerate(((1.0, 1), (1.5, 4), (2.0, 1))):
        world.clock.time = 100 + time
        world.engine.say("a:0", (0, 1, 5)[at], *[ABC[0]] * count)
        assert [len(event.tokens) for event in await anext(stream)] == [count]
    gaps = [record.values for record in world.records if isinstance(record, InterTokenLatencies)]
    assert gaps == [[0.125] * 4, [0.5]]


async def test_a_frame_of_several_steps_counts_each_of_them(world: World) -> None:
    states = [EngineState(running=number, waiting=0, blocks_used=0, blocks_total=8) for number in (1, 2)]
    steps = [msgspec.structs.replace(STATS, step=state.running, state=state) for state in states]
    world.lifecycle.receive(0, 1, StepOutput(started=[], outputs=[], stats=steps))
    world.lifecycle.receive(0, 1, StepOutput(started=[], outputs=[], stats=[]))
    assert [record for record in world.records if isinstance(record, StepStats)] == steps
    assert [record for record in world.records if isinstance(record, EngineState)] == states[1:]


@pytest.mark.parametrize(
    ("end", "reason", "error_type"),
    [
        (lambda world, _: world.engine.say("r:0", 0, EOS, finish="stop"), "stop", None),
        (lambda world, _: world.engine.say("r:0", 0, ABC[0], finish="length"), "length", None),
        (lambda _, stream: stream.cancel(), "abort", None),
        (lambda world, _: world.lifecycle.close(), "error", "overload"),
        (
            lambda world, _: world.lifecycle.receive(0, 1, Rejected(id="r:0", attempt=1, message="")),
            "error",
            "validation",
        ),
    ],
)
async def test_every_outcome_is_recorded_once(world: World, end, reason: str, error_type: str | None) -> None:
    stream = world.lifecycle.submit(make_request())
    end(world, stream)
    stream.cancel()
    world.lifecycle.close()
    assert [(stats.finish_reason, stats.error_type) for stats in world.ended] == [(reason, error_type)]
    try:
        await text_and_end(stream)
    except APIError as error:
        assert error.error_type == error_type


async def test_the_state_of_an_engine_is_recorded_with_steps_without_and_at_its_loss(world: World) -> None:
    world.engine.step()
    emptied = EngineState(running=0, waiting=0, blocks_used=0, blocks_total=3)
    world.lifecycle.receive(0, 1, Idle(state=emptied))
    world.engine.lose()
    states = [record for record in world.records if isinstance(record, EngineState)]
    assert states == [STATS.state, emptied, EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8)]


async def test_numbers_that_cannot_be_recorded_harm_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    def record(_: object, *, replica: str) -> None:
        raise ValueError("no such label")

    lifecycle = Lifecycle(families.byte_level(), record=record)
    engine = FakeEngine(lifecycle)
    stream = lifecycle.submit(make_request(max_tokens=2))
    engine.say("r:0", 0, ABC[0])
    engine.say("r:0", 1, ABC[1])
    assert await text_and_end(stream) == ("ab", "length", Completed(Usage(3, 2, 0)))
    assert "no such label" in caplog.text
