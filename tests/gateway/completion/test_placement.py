"""Several replicas: which one a choice is sent to, and where it goes when that one is lost, drained or given up."""

from __future__ import annotations

import pytest
from engine_for_tests import INFO, FakeEngine, make_request, ready_events, text_and_end
from lifecycle_world import ABC, World
from msgspec.structs import replace

from engine.block_digests import prompt_chain
from engine.messages import ResetCache, Start, TokenLogprobs
from gateway.completion.choice import ReplicaView
from gateway.completion.events import Completed, Usage
from gateway.completion.placement import OUTPUT_LOAD
from gateway.errors import Unavailable
from observability.records import CacheConfig, ChoiceStats, EngineEvent, EngineState, Replay, Routed, StepStats

OTHER = replace(INFO, fingerprint="other")
LONG = list(range(10, 90))
"""Five blocks, of which the last is never taken over."""
FIRST = ChoiceStats(queue_time=0, prefill_time=0, cached_tokens=0)


class Replicas(World):
    """Two replicas that are up."""

    def __init__(self, replicas: int = 2) -> None:
        super().__init__(replicas)

    def where(self, request_id: str, choice: int = 0) -> int:
        """The replica that was told of it last."""
        choice_id = f"{request_id}:{choice}"
        starts = [(start.attempt, e.replica) for e in self.engines for start in e.starts if start.id == choice_id]
        return max(starts)[1]

    def loads(self) -> list[int]:
        incarnations = self.lifecycle._placement._incarnations
        return [incarnations[replica].load for replica in sorted(incarnations)]

    def reasons(self) -> list[str]:
        return [record.reason for record in self.records if isinstance(record, Routed)]


@pytest.fixture
def world() -> Replicas:
    return Replicas()


def chain(tokens: list[int]) -> list[bytes]:
    return prompt_chain(tokens, "", INFO.block_size)


# --- where a choice goes -----------------------------------------------------------------------------------------


async def test_choices_of_a_prompt_go_together_and_other_prompts_elsewhere(world: Replicas) -> None:
    world.lifecycle.submit(make_request("a", prompts=([1, 2], [3]), n=3))
    places = [world.where("a", choice) for choice in range(6)]
    assert len(set(places[:3])) == len(set(places[3:])) == 1
    assert places[0] != places[3]
    assert world.reasons() == ["load", "sibling", "sibling"] * 2


async def test_a_prompt_goes_where_the_engine_says_it_is_cached(world: Replicas) -> None:
    for replica in (1, 0):
        world.engines[replica].tell_of_cache(chain(LONG))
        world.engines[1 - replica].tell_of_cache([], chain(LONG)[1:])
        world.lifecycle.submit(make_request(f"r{replica}", prompts=(LONG,)))
        assert world.where(f"r{replica}") == replica
    assert world.reasons() == ["prefix", "prefix"]


async def test_what_an_old_engine_held_is_not_held_by_the_new_one(world: Replicas) -> None:
    world.engines[1].tell_of_cache(chain(LONG))
    late = world.engines[1]
    late.lose()
    world.restart(1)
    late.tell_of_cache(chain(LONG))
    assert world.router.index.matches(chain(LONG)) == {}


async def test_prompts_that_arrive_together_share_what_is_being_computed(world: Replicas) -> None:
    shared = LONG * 4
    for number in range(3):
        world.lifecycle.submit(make_request(f"r{number}", prompts=([*shared, number],)))
    assert len({world.where(f"r{number}") for number in range(3)}) == 1
    assert world.reasons() == ["load", "prefix", "prefix"]
    # Each counts half of 64 tokens of output; when they outweigh the 320 that they share, others go elsewhere.
    for number in range(3, 12):
        world.lifecycle.submit(make_request(f"r{number}", prompts=([*shared, number],)))
    assert {world.where(f"r{number}") for number in range(3, 12)} == {0, 1}


@pytest.mark.parametrize("ending", ["first token", "abort", "loss", "rejection"])
async def test_what_is_expected_of_a_cache_is_forgotten(world: Replicas, ending: str) -> None:
    stream = world.lifecycle.submit(make_request("r", prompts=(LONG,), n=2, max_tokens=2))
    engine = world.engines[world.where("r")]
    assert world.router.index.matches(chain(LONG)) == {engine.replica: 4}
    match ending:
        case "first token":
            engine.say("r:0", 0, ABC[0], stats=FIRST)
            engine.say("r:1", 0, ABC[0], stats=FIRST)
            assert world.router.index.matches(chain(LONG)) == {}
            assert world.loads()[engine.replica] == 4
            engine.say("r:0", 1, ABC[0], finish="length")
            engine.say("r:1", 1, ABC[0], finish="length")
        case "abort":
            stream.cancel()
        case "loss":
            engine.lose()
            assert world.router.index.matches(chain(LONG)) == {1 - engine.replica: 4}
            stream.cancel()
        case "rejection":
            from engine.messages import Rejected

            world.lifecycle.receive(engine.replica, 1, Rejected(id="r:0", attempt=1, message="no"))
    world.assert_nothing_is_left()


async def test_load_is_what_is_not_cached_and_a_guess_at_the_output(world: Replicas) -> None:
    world.engines[0].tell_of_cache(chain(LONG)[:2])
    world.lifecycle.submit(make_request("a", prompts=(LONG,), max_tokens=5))
    assert world.loads() == [80 - 32 + 5, 0]
    world.lifecycle.submit(make_request("b", prompts=([1, 2, 3],), n=2, max_tokens=500))
    assert world.loads() == [80 - 32 + 5, 2 * (3 + OUTPUT_LOAD)]
    world.engines[0].say("a:0", 0, ABC[0], stats=FIRST)
    assert world.loads()[0] == 5


async def test_sessions_go_to_one_replica(world: Replicas) -> None:
    for number in range(8):
        world.lifecycle.submit(make_request(f"r{number}", prompts=([number, 7],), session=b"s", max_tokens=1))
    assert len({world.where(f"r{number}") for number in range(8)}) == 1
    assert world.reasons() == ["load"] + ["session"] * 7


async def test_a_prompt_that_must_be_computed_anyway_is_not_looked_up(world: Replicas) -> None:
    world.engines[0].tell_of_cache(chain(LONG))
    stream = world.lifecycle.submit(make_request("a", prompts=(LONG,), prompt_logprobs=0, max_tokens=1))
    assert world.reasons() == ["load"] and sum(world.loads()) == 81
    scores = [TokenLogprobs(-1.0, 1, [], [])] * 79
    world.engines[world.where("a")].say("a:0", 0, ABC[0], stats=FIRST, prompt_logprobs=scores, finish="length")
    assert ready_events(stream)
    world.assert_nothing_is_left()


async def test_siblings_take_over_what_the_one_that_scores_the_prompt_has_computed(world: Replicas) -> None:
    world.lifecycle.submit(make_request("a", n=3, prompts=(LONG,), prompt_logprobs=0, max_tokens=1))
    assert world.reasons() == ["load", "sibling", "sibling"]
    assert sum(world.loads()) == 81 + 2 * (80 - 64 + 1)
    other = world.engines[1 - world.where("a")]
    other.tell_of_cache(chain(LONG))
    world.engines[world.where("a")].lose()
    assert [start.params.prompt_logprobs for start in other.starts] == [0, None, None]
    assert world.loads() == [81 + 2 * 17]


async def test_one_replica_costs_no_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.completion.placement.prompt_chain", None)
    world = Replicas(replicas=1)
    world.lifecycle.submit(make_request(prompts=(LONG,)))
    assert world.where("r") == 0


# --- losses ------------------------------------------------------------------------------------------------------


async def test_what_a_lost_replica_had_goes_on_at_once_at_another(world: Replicas) -> None:
    stream = world.lifecycle.submit(make_request("a", n=2, max_tokens=3))
    first = world.engines[world.where("a")]
    second = world.engines[1 - first.replica]
    first.say("a:0", 0, ABC[0], stats=FIRST)
    first.lose()
    assert [(s.id, s.attempt, s.output_prefix) for s in second.starts] == [("a:0", 2, ABC[:1]), ("a:1", 2, [])]
    second.say("a:1", 0, *ABC[:3], attempt=2, finish="length")
    second.say("a:0", 1, *ABC[1:3], attempt=2, finish="length")
    *_, completed = ready_events(stream)
    assert completed == Completed(Usage(3, 6, 0))
    world.assert_nothing_is_left()


async def test_a_begun_stream_waits_for_equal_numerics_where_they_will_be_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = Replicas(replicas=1)
    other = FakeEngine(world.lifecycle, replica=1, info=OTHER)
    assert "replica 1 computes in another way than replica 0 (fingerprints other and fake)" in caplog.text
    world.engines.append(other)
    world.lifecycle.drain_replica(1)
    begun = world.lifecycle.submit(make_request("begun", max_tokens=2))
    fresh = world.lifecycle.submit(make_request("fresh", max_tokens=2))
    world.engines[0].say("begun:0", 0, ABC[0], stats=FIRST)
    world.restart(1, info=OTHER)
    world.engines[0].lose()
    assert [start.id for start in world.engines[1].starts] == ["fresh:0"], "nothing was sent of this one"
    assert [(s.id, s.output_prefix) for s in world.restart(0).starts] == [("begun:0", ABC[:1])]
    world.engines[0].say("begun:0", 1, ABC[1], attempt=2, finish="length")
    world.engines[1].say("fresh:0", 0, *ABC[2:4], attempt=2, finish="length")
    assert (await text_and_end(begun))[:2] == ("ab", "length")
    assert (await text_and_end(fresh))[:2] == ("cd", "length")


async def test_replicas_that_are_up_are_shown_and_told_to_empty_their_caches(world: Replicas) -> None:
    world.lifecycle.submit(make_request("a"))
    world.lifecycle.drain_replica(1)
    running = [int(each.replica == world.where("a")) for each in world.engines]
    assert world.lifecycle.replica_views() == [
        ReplicaView(0, world.engines[0].epoch, False, running[0]),
        ReplicaView(1, world.engines[1].epoch, True, running[1]),
    ]
    world.engines[0].lose()
    assert world.lifecycle.reset_prefix_caches() == [1]
    assert [message for message in world.engines[1].sent if isinstance(message, ResetCache)] == [ResetCache()]
    assert not any(isinstance(message, ResetCache) for message in world.engines[0].sent)
    assert [view.replica for view in world.lifecycle.replica_views()] == [1]


@pytest.mark.parametrize("how", ["it comes back as another", "it is given up"])
async def test_a_begun_stream_goes_on_with_other_numerics_rather_than_not_at_all(world: Replicas, how: str) -> None:
    world.restart(1, info=OTHER)
    world.lifecycle.drain_replica(1)
    world.lifecycle.submit(make_request("begun"))
    world.engines[0].say("begun:0", 0, ABC[0], stats=FIRST)
    world.restart(1, info=OTHER)
    world.engines[0].lose()
    assert not world.engines[1].starts
    if how == "it is given up":
        world.lifecycle.gave_up(0, "no memory")
        assert [start.id for start in world.engines[1].starts] == ["begun:0"]
        assert world.lifecycle.failure is None and world.lifecycle.ready
    else:
        world.restart(0, info=OTHER)
        assert [s.attempt for e in world.engines for s in e.starts] == [2]


async def test_all_is_lost_only_when_every_replica_is_given_up(world: Replicas) -> None:
    stream = world.lifecycle.submit(make_request())
    for replica in (0, 1):
        world.engines[replica].lose()
    world.lifecycle.gave_up(1, "no memory")
    assert world.lifecycle.failure is None
    assert world.lifecycle.replicas == (0, 2)
    world.lifecycle.gave_up(0, "no memory either")
    assert world.lifecycle.failure == "no memory either"
    with pytest.raises(Unavailable, match="no memory either"):
        await anext(stream)


# --- draining ----------------------------------------------------------------------------------------------------


async def test_a_drained_replica_gets_nothing_new_until_its_engine_is_another(world: Replicas) -> None:
    world.engines[0].tell_of_cache(chain(LONG))
    world.lifecycle.submit(make_request("begun", prompts=(LONG,)))
    world.lifecycle.drain_replica(0)
    assert world.lifecycle.ready
    for number in range(4):
        world.lifecycle.submit(make_request(f"r{number}", prompts=(LONG,)))
    assert [start.id for start in world.engines[0].starts] == ["begun:0"]
    world.lifecycle.drain_replica(1)
    assert not world.lifecycle.ready
    with pytest.raises(Unavailable):
        world.lifecycle.submit(make_request("refused"))
    world.engines[0].lose()
    world.restart(0).tell_of_cache(chain(LONG))
    assert world.lifecycle.ready
    world.lifecycle.submit(make_request("new", prompts=(LONG,)))
    assert world.where("new") == 0


async def test_what_has_begun_goes_on_at_a_draining_replica_where_there_is_no_other(world: Replicas) -> None:
    world.lifecycle.drain_replica(1)
    world.lifecycle.submit(make_request("begun"))
    world.lifecycle.submit(make_request("fresh"))
    world.engines[0].say("begun:0", 0, ABC[0], stats=FIRST)
    world.engines[0].lose()
    assert [start.id for start in world.engines[1].starts] == ["begun:0"]
    assert [start.id for start in world.restart(0).starts] == ["fresh:0"]


# --- what is told ------------------------------------------------------------------------------------------------


async def test_numbers_of_an_engine_carry_its_replica(world: Replicas) -> None:
    world.lifecycle.submit(make_request())
    where = world.where("r")
    world.engines[where].say("r:0", 0, ABC[0], stats=FIRST)
    world.engines[where].lose()
    told = {(type(record), replica) for record, replica in zip(world.records, world.records.replicas, strict=True)}
    lost, other = str(where), str(1 - where)
    for kind in (CacheConfig, EngineEvent):
        assert {(kind, lost), (kind, other)} <= told
    for kind in (StepStats, EngineState):
        assert (kind, lost) in told and (kind, other) not in told
    assert (Replay, other) in told and (Replay, lost) not in told
    assert {replica for kind, replica in told if kind is Routed} == {lost, other}


async def test_a_request_must_fit_every_replica() -> None:
    world = Replicas(replicas=1)
    assert world.lifecycle.info is INFO
    FakeEngine(world.lifecycle, replica=1, info=replace(OTHER, max_model_len=500))
    assert world.lifecycle.info == replace(INFO, max_model_len=500)


async def test_an_engine_is_told_the_same_wherever_it_is(world: Replicas) -> None:
    world.lifecycle.submit(make_request("a"))
    first = world.engines[world.where("a")]
    first.lose()
    (before,), (after,) = first.starts, world.engines[1 - first.replica].starts
    assert isinstance(before, Start)
    assert after == replace(before, attempt=2)
