from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.replicas.router import COPIED, SESSION_SLACK, Prompt, ReplicaState, Route, Router, Routing

BLOCK = 16
CHAIN = [bytes([n]) * 16 for n in range(40)]


def router(routing: Routing = "prefix", seed: int = 1, **options: object) -> Router:
    return Router(routing, rng=random.Random(seed), **options)


def states(*loads: int, **changes: object) -> list[ReplicaState]:
    return [ReplicaState(replica, 1, load, **changes) for replica, load in enumerate(loads)]


def prompt(blocks: int, **fields: object) -> Prompt:
    return Prompt(CHAIN[:blocks], BLOCK, **fields)


def test_no_replica_is_no_choice() -> None:
    assert router().choose([], prompt(1)) is None
    assert router().choose(states(0, 0, draining=True), prompt(1)) is None


def test_a_prompt_goes_where_its_beginning_is_cached() -> None:
    r = router()
    r.index.update(1, CHAIN[:3], [])
    r.index.update(2, CHAIN[:5], [])
    for _ in range(20):
        assert r.choose(states(0, 0, 0), prompt(6)) == Route(2, "prefix", 5 * BLOCK)


@pytest.mark.parametrize(("load", "replica"), [(8 * BLOCK - 1, 0), (8 * BLOCK, 0), (8 * BLOCK + 1, 1)])
def test_a_token_of_match_outweighs_two_of_load(load: int, replica: int) -> None:
    r = router()
    r.index.update(0, CHAIN[:5], [])
    r.index.update(1, CHAIN[:1], [])
    route = r.choose(states(load, 0), prompt(6))
    assert route == Route(replica, "prefix", (5 if replica == 0 else 1) * BLOCK)


def test_a_busy_holder_gives_way_to_one_that_holds_nothing() -> None:
    r = router()
    r.index.update(0, CHAIN[:1], [])
    assert r.choose(states(2 * BLOCK + 1, 0), prompt(6)) == Route(1, "load", 0)


def test_prompts_that_arrive_together_go_together() -> None:
    r = router()
    first = r.choose(states(0, 0, 0, 0), prompt(8))
    assert first is not None and first.reason == "load"
    r.index.expect(first.replica, CHAIN[:8])
    loads = [0, 0, 0, 0]
    # The eight blocks will be there, though the engine has not said so: 128 tokens.
    loads[first.replica] = 256
    assert r.choose(states(*loads), prompt(8)) == Route(first.replica, "prefix", 128)
    loads[first.replica] = 257
    elsewhere = r.choose(states(*loads), prompt(8))
    assert elsewhere is not None and elsewhere.replica != first.replica


def test_a_prompt_that_nobody_knows_goes_to_the_less_loaded_of_two() -> None:
    r = router()
    chosen = Counter(r.choose(states(30, 10, 20), prompt(4)).replica for _ in range(600))
    # Of three pairs the least loaded one wins two, and the most loaded one none.
    assert chosen[0] == 0 and 350 < chosen[1] < 450 and 150 < chosen[2] < 250


def test_of_equal_loads_the_emptier_cache() -> None:
    r = router()
    r.index.update(0, CHAIN[20:], [])
    for _ in range(20):
        assert r.choose(states(5, 5), prompt(4)) == Route(1, "load", 0)


def test_a_beginning_that_many_share_is_copied() -> None:
    r, ways = router(), 2 * COPIED
    r.index.update(0, CHAIN[:3], [])
    for number in range(ways - 1):
        assert r.choose(states(0, 0), Prompt([*CHAIN[:3], b"%d" % number], BLOCK)) == Route(0, "prefix", 3 * BLOCK)
    # From the next one on it is no reason to go there, and the emptier cache gets it.
    assert r.choose(states(0, 0), Prompt([*CHAIN[:3], b"new"], BLOCK)) == Route(1, "load", 0)
    assert r.choose(states(0, 1), Prompt([*CHAIN[:3], b"other"], BLOCK)) == Route(0, "load", 3 * BLOCK)
    # What a prompt matches beyond it still is.
    r.index.update(0, [b"new"], [])
    assert r.choose(states(2 * BLOCK, 0), Prompt([*CHAIN[:3], b"new", b"2"], BLOCK)) == Route(0, "prefix", 4 * BLOCK)
    assert r.choose(states(2 * BLOCK + 1, 0), Prompt([*CHAIN[:3], b"new", b"3"], BLOCK)) == Route(1, "load", 0)


def test_siblings_and_turns_of_one_conversation_are_no_new_ways() -> None:
    r = router()
    r.index.update(0, CHAIN[:3], [])
    for _ in range(3 * COPIED):
        r.choose(states(0, 0), prompt(5, beside=0))
    for turn in range(3, 30):
        assert r.choose(states(0, 0), prompt(turn + 1)) == Route(0, "prefix", turn * BLOCK)
        r.index.update(0, CHAIN[turn : turn + 1], [])
    assert r.index.shared(CHAIN, 2) == 0


def test_siblings_stay_together_whatever_the_load() -> None:
    for routing in ("prefix", "random"):
        r = router(routing)
        assert r.choose(states(0, 10**6, 0), prompt(4, beside=1)) == Route(1, "sibling", 0)
        away = r.choose(states(0, 0), prompt(4, beside=7))
        assert away is not None and away.reason != "sibling"


def test_random_is_random() -> None:
    r = router("random")
    r.index.update(0, CHAIN, [])
    chosen = Counter(r.choose(states(10**6, 0, 0), prompt(4, session=b"s")).replica for _ in range(600))
    assert all(150 < chosen[replica] < 250 for replica in range(3))


# --- sessions ----------------------------------------------------------------------------------------------------


def test_a_session_stays_where_it_is() -> None:
    r = router()
    first = r.choose(states(0, 0, 0), prompt(0, session=b"s"))
    assert first is not None and first.reason == "load"
    other = (first.replica + 1) % 3
    r.index.update(other, CHAIN[:5], [])
    loads = [0, 0, 0]
    loads[first.replica] = SESSION_SLACK
    assert r.choose(states(*loads), prompt(5, session=b"s")) == Route(first.replica, "session", 0)


def test_a_session_leaves_a_busy_replica_and_stays_where_it_went() -> None:
    r = router()
    assert r.choose(states(0), prompt(0, session=b"s")) == Route(0, "load", 0)
    assert r.choose(states(SESSION_SLACK + 1, 0), prompt(0, session=b"s")) == Route(1, "load", 0)
    assert r.choose(states(0, 0), prompt(0, session=b"s")) == Route(1, "session", 0)


def test_a_session_has_nothing_to_return_to_in_a_new_engine() -> None:
    r = router()
    r.choose(states(0), prompt(0, session=b"s"))
    restarted = [ReplicaState(0, 2, 1), ReplicaState(1, 1, 0)]
    assert r.choose(restarted, prompt(0, session=b"s")) == Route(1, "load", 0)


def test_the_oldest_session_is_forgotten_first() -> None:
    r = router(sessions=2)
    for name in (b"a", b"b", b"a", b"c"):
        r.choose(states(0), prompt(0, session=name))
    reasons = {name: r.choose(states(0), prompt(0, session=name)).reason for name in (b"a", b"c", b"b")}
    assert reasons == {b"a": "session", b"c": "session", b"b": "load"}


# --- whatever there is -------------------------------------------------------------------------------------------

replica_states = st.lists(
    st.builds(ReplicaState, st.integers(0, 5), st.integers(1, 3), st.integers(0, 10_000), st.booleans()),
    unique_by=lambda state: state.replica,
)
prompts = st.builds(
    prompt,
    st.integers(0, 40),
    session=st.none() | st.sampled_from([b"s", b"t"]),
    beside=st.none() | st.integers(0, 5),
)
arrivals = st.lists(st.tuples(replica_states, prompts, st.booleans()), max_size=20)


def routes(routing: Routing, seed: int, what: list[tuple[list[ReplicaState], Prompt, bool]]) -> list[Route | None]:
    """Of each arrival; some replicas then tell of what they have computed."""
    r = router(routing, seed)
    found = []
    for replicas, arriving, told in what:
        route = r.choose(replicas, arriving)
        found.append(route)
        if route is not None and told:
            r.index.update(route.replica, arriving.digests, [])
    return found


@given(st.sampled_from(["prefix", "random"]), st.integers(0, 9), arrivals)
def test_only_what_is_up_and_not_draining_is_chosen(
    routing: Routing, seed: int, what: list[tuple[list[ReplicaState], Prompt, bool]]
) -> None:
    for (replicas, arriving, _), route in zip(what, routes(routing, seed, what), strict=True):
        open_ = {state.replica for state in replicas if not state.draining}
        assert (route is None) == (not open_)
        if route is not None:
            assert route.replica in open_
            assert 0 <= route.matched <= len(arriving.digests) * BLOCK
            assert (route.reason == "sibling") == (arriving.beside in open_)


@given(st.sampled_from(["prefix", "random"]), st.integers(0, 9), arrivals)
def test_the_same_calls_give_the_same_routes(
    routing: Routing, seed: int, what: list[tuple[list[ReplicaState], Prompt, bool]]
) -> None:
    assert routes(routing, seed, what) == routes(routing, seed, what)


@given(replica_states, prompts, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40))))
def test_a_match_is_never_passed_over_for_a_higher_cost(
    replicas: list[ReplicaState], arriving: Prompt, held: list[tuple[int, int]]
) -> None:
    r = router()
    for replica, blocks in held:
        r.index.update(replica, CHAIN[:blocks], [])
    route = r.choose(replicas, arriving)
    if route is not None and route.reason == "prefix":
        matched = r.index.matches(arriving.digests)
        costs = {s.replica: s.load / 2 - BLOCK * matched.get(s.replica, 0) for s in replicas if not s.draining}
        assert costs[route.replica] == min(costs.values())
