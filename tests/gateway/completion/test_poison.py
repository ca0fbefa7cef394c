"""How the lifecycle treats choices that may have crashed an engine, over fake engines that are lost."""

from __future__ import annotations

import pytest
from engine_for_tests import FakeEngine, make_request, ready_events, text_and_end
from lifecycle_world import ABC, World

from gateway.errors import EngineCrash, Unavailable
from observability.records import Conviction, EngineEvent


class Crashes(World):
    def crash(self, executing: dict[str, int] | None, replica: int = 0) -> FakeEngine:
        """The replica's engine crashes in a step, and another one comes up."""
        self.engines[replica].lose(executing=executing, own_doing=True)
        return self.restart(replica)

    def tell(self, choice_id: str, at: int, replica: int = 0) -> None:
        """Token ``at`` of a choice arrives."""
        engine = self.engines[replica]
        engine.say(choice_id, at, ABC[at], attempt=engine.start(choice_id).attempt)

    def running(self, replica: int = 0) -> list[str]:
        return sorted(self.lifecycle._placement._incarnations[replica].running)


@pytest.fixture
def world() -> Crashes:
    return Crashes()


async def test_a_poisonous_request_fails_alone_by_its_own_name(world: Crashes) -> None:
    good, bad = world.lifecycle.submit(make_request("good")), world.lifecycle.submit(make_request("bad"))
    world.tell("good:0", 0)
    world.crash({"good:0": 1, "bad:0": 0})
    for _ in range(2):
        assert world.running() == ["bad:0"], "the other one waits"
        world.crash({"bad:0": 0})
    with pytest.raises(EngineCrash, match="request bad was given up") as raised:
        await text_and_end(bad)
    assert (raised.value.status, raised.value.headers) == (500, {"x-should-retry": "false"})
    assert world.running() == ["good:0"]
    assert world.engines[0].start("good:0").output_prefix == ABC[:1]
    assert sum(isinstance(record, Conviction) for record in world.records) == 1
    good.cancel()
    world.assert_nothing_is_left()


async def test_all_choices_of_the_request_end_with_it(world: Crashes) -> None:
    stream = world.lifecycle.submit(make_request("bad", n=3))
    world.tell("bad:1", 0)
    world.crash({"bad:0": 0})
    world.crash({"bad:0": 0})
    world.crash({"bad:0": 0})
    assert len(ready_events(stream)) == 1
    with pytest.raises(EngineCrash):
        await anext(stream)
    world.assert_nothing_is_left()


async def test_a_suspect_that_passes_its_position_goes_on_and_the_others_with_it(world: Crashes) -> None:
    for name in "ab":
        world.lifecycle.submit(make_request(name))
        world.tell(f"{name}:0", 0)
    world.crash({})
    world.crash({"a:0": 2})
    assert world.running() == ["a:0"]
    assert world.engines[0].start("a:0").at_once
    world.tell("a:0", 1)
    assert world.running() == ["a:0"], "token 2 is the one it was at"
    world.tell("a:0", 2)
    assert world.running() == ["a:0", "b:0"]
    assert not world.engines[0].aborts, "what has passed is not begun anew"
    assert not world.engines[0].start("b:0").at_once
    assert (world.engines[0].start("b:0").output_prefix, world.engines[0].start("b:0").attempt) == (ABC[:1], 3)


async def test_suspects_take_turns_and_each_is_alone(world: Crashes) -> None:
    for name in "abc":
        world.lifecycle.submit(make_request(name))
    world.crash({"a:0": 0, "b:0": 0})
    assert world.running() == ["a:0"]
    world.tell("a:0", 0)
    assert world.running() == ["b:0"], "the first waits, so that the second is alone"
    assert world.engines[0].aborts == [("a:0", 2)]
    world.tell("b:0", 0)
    assert world.running() == ["a:0", "b:0", "c:0"]
    assert world.engines[0].start("a:0").output_prefix == ABC[:1]


@pytest.mark.parametrize("end", ["abort", "stop", "rejection"])
async def test_others_go_on_when_a_suspect_ends_otherwise(world: Crashes, end: str) -> None:
    from engine.messages import Rejected

    suspect = world.lifecycle.submit(make_request("a", max_tokens=1))
    world.lifecycle.submit(make_request("b"))
    world.crash({"a:0": 0})
    assert world.running() == ["a:0"]
    match end:
        case "abort":
            suspect.cancel()
        case "stop":
            world.tell("a:0", 0)
        case "rejection":
            world.lifecycle.receive(0, 2, Rejected(id="a:0", attempt=2, message="no"))
    assert world.running() == ["b:0"]


async def test_a_new_request_waits_while_a_suspect_is_alone(world: Crashes) -> None:
    world.lifecycle.submit(make_request("a"))
    world.crash({"a:0": 0})
    world.lifecycle.submit(make_request("new"))
    assert (world.running(), world.lifecycle.queued_requests) == (["a:0"], 2)
    world.tell("a:0", 0)
    assert world.running() == ["a:0", "new:0"]


async def test_many_kills_under_many_streams_convict_nobody(world: Crashes) -> None:
    names = [f"s{number}" for number in range(32)]
    streams = [world.lifecycle.submit(make_request(name, max_tokens=1000)) for name in names]
    for kill in range(20):
        for name in names:
            choice = world.lifecycle._state.choices[f"{name}:0"]
            engine = world.engines[0]
            engine.say(choice.id, len(choice.emitted.ids), ABC[0], attempt=choice.attempt)
        executing = {f"{name}:0": len(world.lifecycle._state.choices[f"{name}:0"].emitted.ids) for name in names}
        world.engines[0].lose(executing=executing, own_doing=bool(kill % 2))
        world.restart()
        assert len(world.running()) == 32, "nobody has to wait"
    for stream in streams:
        stream.cancel()
    world.assert_nothing_is_left()
    assert not any(isinstance(record, Conviction) for record in world.records)


async def test_an_engine_that_is_killed_as_it_begins_with_many_is_followed_by_one_that_has_all_of_them(
    world: Crashes,
) -> None:
    names = [f"s{number}" for number in range(32)]
    for name in names:
        world.lifecycle.submit(make_request(name))
    ids = sorted(f"{name}:0" for name in names)
    world.engines[0].lose(executing=dict.fromkeys(ids, 0))
    world.restart()
    assert world.running() == ids, "nobody waits for the others"
    world.engines[0].lose(executing=dict.fromkeys(ids, 0))
    world.restart()
    assert len(world.running()) == 1, "the second time each is tried alone"


async def test_where_nobody_knows_what_a_step_computed_it_is_found_out(world: Crashes) -> None:
    good, bad = world.lifecycle.submit(make_request("good")), world.lifecycle.submit(make_request("bad"))
    world.crash(None)
    assert world.running() == ["good:0"]
    world.tell("good:0", 0)
    for _ in range(2):
        assert world.running() == ["bad:0"]
        world.crash(None)
    with pytest.raises(EngineCrash):
        await text_and_end(bad)
    assert world.running() == ["good:0"]
    good.cancel()
    world.assert_nothing_is_left()


async def test_suspects_take_down_one_replica_and_no_other() -> None:
    world = Crashes(replicas=3)
    bad = world.lifecycle.submit(make_request("bad"))
    (home,) = (engine.replica for engine in world.engines if engine.starts)
    others = [replica for replica in range(3) if replica != home]
    for number in range(6):
        world.lifecycle.submit(make_request(f"good{number}"))
    world.engines[home].lose(executing={"bad:0": 0}, own_doing=True)
    assert all("bad:0" not in world.running(replica) for replica in others)
    assert sum(len(world.running(replica)) for replica in others) == 6, "the others need not wait"
    for _ in range(2):
        world.restart(home)
        assert world.running(home) == ["bad:0"]
        world.engines[home].lose(executing={"bad:0": 0}, own_doing=True)
    with pytest.raises(EngineCrash):
        await text_and_end(bad)
    assert {r for e, r in zip(world.records, world.records.replicas, strict=True) if _is_loss(e)} == {str(home)}


async def test_what_an_engine_computed_as_it_ended_by_itself_is_not_tried_on_the_next_one() -> None:
    world = Crashes(replicas=2)
    world.lifecycle.submit(make_request("a"))
    (home,) = (engine.replica for engine in world.engines if engine.starts)
    world.tell("a:0", 0, home)
    world.engines[home].lose(executing={"a:0": 1}, own_doing=True)
    assert world.running(1 - home) == []
    world.lifecycle.submit(make_request("new"))
    assert world.running(1 - home) == ["new:0"]
    world.restart(home)
    assert world.running(home) == ["a:0"]
    world.tell("a:0", 1, home)
    world.engines[home].lose(executing={"a:0": 2})
    assert world.running(1 - home) == ["a:0", "new:0"], "this time it was killed"


async def test_a_suspect_whose_replica_is_given_up_runs_alone_elsewhere() -> None:
    world = Crashes(replicas=2)
    world.lifecycle.submit(make_request("a"))
    (home,) = (engine.replica for engine in world.engines if engine.starts)
    other = 1 - home
    neighbour = world.lifecycle.submit(make_request("b"))
    assert world.running(other) == ["b:0"]
    world.engines[home].lose(executing={"a:0": 0}, own_doing=True)
    world.lifecycle.gave_up(home, "broken")
    assert world.running(other) == ["b:0"], "not beside others"
    neighbour.cancel()
    assert world.running(other) == ["a:0"]


async def test_a_drain_ends_a_suspect_of_which_nothing_was_sent_and_keeps_one_that_has_begun(
    world: Crashes,
) -> None:
    begun, fresh = world.lifecycle.submit(make_request("begun")), world.lifecycle.submit(make_request("fresh"))
    world.tell("begun:0", 0)
    world.crash({})
    world.engines[0].lose(executing={"begun:0": 1, "fresh:0": 0}, own_doing=True)
    world.lifecycle.drain()
    world.restart()
    with pytest.raises(Unavailable):
        await text_and_end(fresh)
    assert world.running() == ["begun:0"]
    begun.cancel()
    world.assert_nothing_is_left()


def _is_loss(record: object) -> bool:
    return isinstance(record, EngineEvent) and record.kind == "lost"
