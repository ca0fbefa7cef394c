"""What becomes of choices when their engine is lost, and of requests when there is none or the server ends."""

from __future__ import annotations

import asyncio

import pytest
import tokenizers_for_tests as families
from engine_for_tests import EOS, FakeEngine, Records, ids_of, make_request, ready_events, text_and_end
from lifecycle_world import ABC, World

from engine.messages import TokenLogprobs
from gateway.completion.events import Completed, Delta, PromptScored, Usage
from gateway.completion.lifecycle import Lifecycle
from gateway.errors import Unavailable
from observability.records import ChoiceStats, EngineEvent, Replay


@pytest.fixture
def world() -> World:
    return World()


# --- Lost --------------------------------------------------------------------------------------------------------


async def test_a_loss_is_a_pause(world: World) -> None:
    stream = world.lifecycle.submit(make_request(max_tokens=4, logprobs=0))
    scores = [TokenLogprobs(-float(n), 1, [], []) for n in range(4)]
    world.engine.say("r:0", 0, *ABC[:2], logprobs=scores[:2])
    old = world.engine
    old.lose()
    assert ready_events(stream)
    assert ready_events(stream) == []
    start = world.restart().start("r:0")
    assert (start.attempt, start.output_prefix, start.prompt) == (2, ABC[:2], [5, 6, 7])
    old.say("r:0", 2, ABC[7])
    world.engine.say("r:0", 2, ABC[2], attempt=2, logprobs=scores[2:3])
    (event,) = ready_events(stream)
    assert isinstance(event, Delta)
    assert [(token.id, token.logprobs) for token in event.tokens] == [(ABC[2], scores[2])]
    world.engine.say("r:0", 3, ABC[3], attempt=2, finish="length")
    assert await text_and_end(stream) == ("d", "length", Completed(Usage(3, 4, 0)))
    assert [r.kind for r in world.records if isinstance(r, EngineEvent)] == ["up", "lost", "up"]
    assert sum(isinstance(record, Replay) for record in world.records) == 1


@pytest.mark.parametrize("last", ["max_tokens", "stop token", "stop string"])
async def test_a_choice_that_has_everything_is_finished_not_resubmitted(world: World, last: str) -> None:
    """Even where the engine died before it said so."""
    stream = world.lifecycle.submit(make_request(max_tokens=3, stop=("bcd", "xb")))
    other = world.lifecycle.submit(make_request("other"))
    tokens = {"max_tokens": ABC[:3], "stop token": [ABC[0], EOS], "stop string": ids_of("xb")}[last]
    world.engine.say("r:0", 0, *tokens)
    world.engine.lose()
    assert [start.id for start in world.restart().starts] == ["other:0"]
    text, finish, _ = await text_and_end(stream)
    assert (text, finish) == {
        "max_tokens": ("abc", "length"),
        "stop token": ("a", "stop"),
        "stop string": ("", "stop"),
    }[last]
    assert ready_events(other) == []


async def test_finished_siblings_never_restart(world: World) -> None:
    world.lifecycle.submit(make_request(n=2))
    world.engine.say("r:0", 0, ABC[0], finish="length")
    world.engine.lose()
    assert [start.id for start in world.restart().starts] == ["r:1"]


async def test_old_news_is_not_told_again(world: World) -> None:
    stream = world.lifecycle.submit(make_request(prompt_logprobs=0, max_tokens=2))
    stats = ChoiceStats(queue_time=1, prefill_time=2, cached_tokens=1)
    scores = [TokenLogprobs(-1.0, 1, [], [])]
    world.engine.say("r:0", 0, ABC[0], stats=stats, prompt_logprobs=scores)
    assert [type(event) for event in ready_events(stream)] == [PromptScored, Delta]
    world.engine.lose()
    again = ChoiceStats(queue_time=5, prefill_time=5, cached_tokens=3)
    world.restart().say("r:0", 1, ABC[1], attempt=2, stats=again, prompt_logprobs=scores)
    assert [type(event) for event in ready_events(stream)] == [Delta, Completed]
    assert (world.ended[0].queue_time, world.ended[0].cached_tokens) == (1, 1)


async def test_no_message_goes_to_a_lost_engine(world: World) -> None:
    stream = world.lifecycle.submit(make_request(n=3))
    told = len(world.engine.sent)
    world.engine.lose()
    stream.cancel()
    assert len(world.engine.sent) == told
    world.assert_nothing_is_left()


async def test_a_late_loss_of_an_old_epoch_is_nothing(world: World) -> None:
    old = world.engine
    old.lose()
    world.restart()
    world.lifecycle.submit(make_request())
    old.lose()
    assert world.lifecycle.ready
    assert world.lifecycle._state.choices["r:0"].state == "running"


# --- doors -------------------------------------------------------------------------------------------------------


async def test_nothing_is_accepted_without_an_engine_that_is_up() -> None:
    lifecycle = Lifecycle(families.byte_level(), record=Records())
    assert (lifecycle.ready, lifecycle.info) == (False, None)
    with pytest.raises(Unavailable, match="starting"):
        lifecycle.submit(make_request())
    engine = FakeEngine(lifecycle)
    assert lifecycle.ready
    engine.lose()
    assert not lifecycle.ready
    assert lifecycle.info is not None
    with pytest.raises(Unavailable):
        lifecycle.submit(make_request())


async def test_giving_up_ends_every_stream_and_closes_the_door(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    world.engine.say("r:0", 0, ABC[0])
    world.engine.lose()
    world.lifecycle.gave_up(0, "no memory")
    assert world.lifecycle.failure == "no memory"
    assert ready_events(stream)
    with pytest.raises(Unavailable, match="no memory"):
        await anext(stream)
    with pytest.raises(Unavailable, match="no memory"):
        world.lifecycle.submit(make_request("s"))
    world.assert_nothing_is_left()
    # Another set of engines, after an upgrade in place that was called off.
    world.restart()
    assert world.lifecycle.failure is None
    world.lifecycle.submit(make_request("t"))
    assert world.engine.start("t:0")


async def test_drain_lets_what_has_begun_go_on_across_a_loss_and_starts_nothing(world: World) -> None:
    begun = world.lifecycle.submit(make_request("begun", n=2, max_tokens=2))
    fresh = world.lifecycle.submit(make_request("fresh"))
    world.engine.say("begun:0", 0, ABC[0])
    world.lifecycle.drain()
    assert not world.lifecycle.ready
    with pytest.raises(Unavailable, match="shutting down"):
        world.lifecycle.submit(make_request("new"))
    world.engine.lose()
    assert [start.id for start in world.restart().starts] == ["begun:0", "begun:1"]
    with pytest.raises(Unavailable):
        await text_and_end(fresh)
    idle = asyncio.ensure_future(world.lifecycle.wait_idle())
    await asyncio.sleep(0)
    assert not idle.done()
    world.engine.say("begun:0", 1, ABC[1], attempt=2)
    world.engine.say("begun:1", 0, ABC[0], ABC[1], attempt=2)
    await idle
    assert isinstance((await anext(begun))[-1], Completed)


async def test_drain_ends_parked_work_at_once(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    world.engine.lose()
    world.lifecycle.drain()
    with pytest.raises(Unavailable):
        await text_and_end(stream)


async def test_drain_while_the_engine_restarts_keeps_what_has_begun(world: World) -> None:
    world.lifecycle.submit(make_request())
    world.engine.say("r:0", 0, ABC[0])
    world.engine.lose()
    world.lifecycle.drain()
    assert [start.id for start in world.restart().starts] == ["r:0"]


async def test_close_ends_everything(world: World) -> None:
    stream = world.lifecycle.submit(make_request())
    world.engine.say("r:0", 0, ABC[0])
    world.lifecycle.close()
    assert world.engine.aborts == [("r:0", 1)]
    assert ready_events(stream)
    with pytest.raises(Unavailable):
        await anext(stream)
    world.assert_nothing_is_left()
