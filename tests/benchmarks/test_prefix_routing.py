"""Prefix routing against one replica and against random routing: simulated, and over real engines."""

from __future__ import annotations

import pytest

from benchmarks.replicas import servers
from benchmarks.replicas.conversations import Conversation, Shape
from benchmarks.replicas.simulation import compare


@pytest.mark.parametrize(
    ("shape", "seed"),
    [(Shape(), 1), (Shape(), 2), (Shape(system=512, turns=4, think=10.0), 1), (Shape(system=0, think=0.3), 1)],
    ids=["conversations", "others", "sparse with a long beginning", "dense with none"],
)
def test_four_replicas_find_nine_tenths_of_what_one_would(shape: Shape, seed: int) -> None:
    one, prefix, random = compare(shape, replicas=4, cache_tokens=2 * shape.tokens, seed=seed)
    assert one.queries == prefix.queries == random.queries
    assert prefix.share_of(one) >= 0.9
    assert random.share_of(one) < 0.9
    turns = shape.conversations * shape.turns
    assert sum(prefix.by_replica) == turns
    assert max(prefix.by_replica) < 0.6 * turns, "the work is shared out"
    assert prefix.first_token < one.first_token


def test_where_memory_is_scarce_prefix_routing_still_beats_chance() -> None:
    shape = Shape()
    _, prefix, random = compare(shape, replicas=4, cache_tokens=shape.tokens // 2, seed=1)
    assert prefix.hits > 1.2 * random.hits


def test_a_run_is_repeatable() -> None:
    shape = Shape(conversations=8, turns=3)
    runs = [compare(shape, replicas=3, cache_tokens=9600, seed=5) for _ in range(2)]
    assert runs[0] == runs[1]


def test_what_is_said_depends_on_the_seed_alone() -> None:
    first, second = (Conversation(3, Shape(), 7, range(10, 99)) for _ in range(2))
    first.pause()
    prompt, answer = first.ask()
    assert second.ask() == (prompt, answer)
    for conversation in (first, second):
        conversation.hear([1, 2])
    second.pause()
    assert first.ask() == second.ask()
    assert first.said[: len(prompt) + 2] == [*prompt, 1, 2]
    assert Conversation(4, Shape(), 7, range(10, 99)).ask()[0][:64] == prompt[:64], "the system prompt is shared"


@pytest.mark.slow
def test_over_real_engines() -> None:
    shape = ["--conversations", "8", "--turns", "4", "--think", "0.2"]
    one, prefix, random = servers.main([*shape, "--replicas", "2", "--cache", "48MiB", "--serve", "--dtype float32"])
    assert one.queries == prefix.queries == random.queries > 0
    assert sum(one.by_replica) == sum(prefix.by_replica) == sum(random.by_replica) == 32
    assert random.hits < prefix.hits
    assert prefix.share_of(one) > 0.8
