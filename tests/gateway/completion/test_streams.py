"""Whose a stream is, how long it waits for its reader, and how much is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import tokenizers_for_tests as families
from engine_for_tests import EOS, FakeEngine, Records, ids_of, make_request, ready_events
from resume_for_tests import KEY, Client, SteppedClock, form_of

from gateway.completion.lifecycle import Lifecycle
from gateway.completion.recording import Recording
from gateway.completion.request import Request
from gateway.completion.streams import Streams
from gateway.errors import Gone, NotFound, TakenOver, Unavailable
from gateway.protocol.answer import AnswerOptions

GRACE = 60.0
ABC = ids_of("abcdefgh")


class World:
    def __init__(self, capacity: int = 2**30) -> None:
        self.clock = SteppedClock()
        self.lifecycle = Lifecycle(families.byte_level(), record=Records(), clock=self.clock)
        self.engine = FakeEngine(self.lifecycle)
        self.streams = Streams(self.lifecycle, families.byte_level(), grace=GRACE, capacity=capacity, clock=self.clock)
        self.ended: list[str] = []

    def submit(self, stream_id: str = "r", key: bytes = KEY) -> Recording:
        request = make_request(stream_id)
        form = form_of(AnswerOptions(prompts=request.prompts)).encode()
        return self.streams.submit(request, key=key, form=form, on_end=lambda: self.ended.append(stream_id))

    def client(self, stream_id: str = "r") -> Client:
        client = Client(self.streams, self.submit(stream_id))
        client.connect()
        return client


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.streams.close()


async def test_generation_goes_on_without_a_listener_and_the_answer_is_kept(world: World) -> None:
    client = world.client()
    world.engine.say("r:0", 0, *ABC[:2])
    client.read()
    client.lose()
    await world.clock.advance(GRACE - 1)
    world.engine.say("r:0", 2, *ABC[2:4], EOS, finish="stop")
    assert world.ended == ["r"], "its place inside is free again"
    assert not world.engine.aborts
    await world.clock.advance(GRACE - 1)
    client.connect()
    client.read()
    assert client.joined.texts == {0: "abcd"}
    client.lose()
    await world.clock.advance(GRACE - 1)
    client.connect()
    client.read()
    assert client.joined.ends == 2, "it may be read to its end again and again"
    assert client.joined.texts == {0: "abcd"}


async def test_a_place_is_taken_while_an_answer_is_generated_or_read(world: World) -> None:
    inside: list[str] = []

    def enter(request: Request) -> Callable[[], None]:
        inside.append(request.id)
        return lambda: inside.remove(request.id)

    world.streams._enter = enter
    client = world.client()
    world.engine.say("r:0", 0, *ABC[:2], EOS, finish="stop")
    assert not world.ended, "it is complete, and its reader has read nothing"
    client.read()
    client.lose()
    assert world.ended == ["r"] and not inside
    client.connect()
    assert inside == ["r"], "it is read again"
    client.connect()
    assert inside == ["r"], "another reader takes over, and the place with it"
    client.lose()
    assert not inside and world.ended == ["r"]


async def test_a_stream_that_nobody_comes_back_to_is_aborted(world: World) -> None:
    client = world.client()
    world.engine.say("r:0", 0, ABC[0])
    client.read()
    client.lose()
    await world.clock.advance(GRACE - 0.1)
    assert not world.engine.aborts
    await world.clock.advance(0.2)
    assert world.engine.aborts == [("r:0", 1)]
    assert world.ended == ["r"]
    assert not len(world.streams)
    with pytest.raises(Gone):
        world.streams.find("r", KEY)
    with pytest.raises(NotFound):
        world.streams.find("r", b"another key")


async def test_the_grace_time_begins_again_when_a_reader_leaves(world: World) -> None:
    client = world.client()
    client.lose()
    await world.clock.advance(GRACE - 1)
    client.connect()
    await world.clock.advance(10 * GRACE)
    client.lose()
    await world.clock.advance(GRACE - 1)
    assert world.streams.find("r", KEY)
    await world.clock.advance(2)
    assert not len(world.streams)


async def test_a_reader_who_comes_when_the_time_is_over_but_nothing_has_ended_is_served(world: World) -> None:
    client = world.client()
    client.lose()
    await asyncio.sleep(0)
    ending = asyncio.ensure_future(world.clock.advance(GRACE + 1))
    client.connect()
    await ending
    assert not world.engine.aborts
    world.engine.say("r:0", 0, ABC[0], EOS, finish="stop")
    client.read()
    assert client.joined.texts == {0: "a"}
    assert client.done


async def test_a_complete_answer_is_forgotten_after_the_grace_time(world: World) -> None:
    client = world.client()
    world.engine.say("r:0", 0, ABC[0], EOS, finish="stop")
    client.read()
    assert client.done
    client.lose()
    await world.clock.advance(GRACE + 1)
    assert not len(world.streams)
    assert not world.streams._waits
    assert not world.streams._kept_bytes


async def test_another_key_and_an_unknown_id_look_alike(world: World) -> None:
    world.submit()
    with pytest.raises(NotFound) as foreign:
        world.streams.find("r", b"another key")
    with pytest.raises(NotFound) as unknown:
        world.streams.find("s", KEY)
    assert str(foreign.value).replace("'r'", "'s'") == str(unknown.value)


async def test_the_newer_of_two_readers_takes_over(world: World) -> None:
    client = world.client()
    world.engine.say("r:0", 0, ABC[0])
    older = client.reader
    assert older is not None
    ready_events(older)
    waiting = asyncio.ensure_future(older.__anext__())
    await asyncio.sleep(0)
    client.connect()
    with pytest.raises(TakenOver):
        await waiting
    older.cancel()
    assert not world.streams._waits, "the one that has left was not the reader any more"
    world.engine.say("r:0", 1, ABC[1], EOS, finish="stop")
    client.read()
    assert client.joined.texts == {0: "ab"}


async def test_a_failure_is_told_to_every_reader_after_what_came_before(world: World) -> None:
    client = world.client()
    world.engine.say("r:0", 0, *ABC[:3])
    client.lose()
    world.lifecycle.gave_up(0, "broken")
    world.engine.lose()
    world.lifecycle.close()
    for _ in range(2):
        client.connect()
        assert client.reader is not None
        (event,) = ready_events(client.reader)
        assert event.text == "abc"
        with pytest.raises(Unavailable):
            ready_events(client.reader)
        client.lose()


async def test_complete_answers_give_way_to_newer_ones() -> None:
    world = World(capacity=15_000)
    try:
        for name in ("a", "b", "c", "d"):
            client = world.client(name)
            world.engine.say(f"{name}:0", 0, ABC[0], EOS, finish="stop")
            if name != "b":
                client.read()
                client.lose()
        assert list(world.streams._kept) == ["a", "c", "d"]
        client = world.client("e")
        world.engine.say("e:0", 0, ABC[0], EOS, finish="stop")
        client.lose()
        with pytest.raises(Gone):
            world.streams.find("a", KEY)
        for name in ("b", "c", "d", "e"):
            assert world.streams.find(name, KEY), "the one that is being read is not counted"
        assert world.streams._kept_bytes <= 15_000
    finally:
        await world.streams.close()


async def test_what_is_refused_leaves_nothing(world: World) -> None:
    world.lifecycle.drain()
    with pytest.raises(Unavailable):
        world.submit()
    assert not len(world.streams)
    assert not world.ended


async def test_a_slow_reader_holds_nobody_up_and_misses_nothing(world: World) -> None:
    client = world.client()
    ids = ids_of("x" * 99)
    for at, token in enumerate(ids):
        world.engine.say("r:0", at, token)
    world.engine.say("r:0", 99, EOS, finish="stop")
    assert not world.lifecycle.running_requests
    client.read()
    assert client.joined.texts == {0: "x" * 99}
    assert client.done


async def test_long_answers_are_folded_in_turns(world: World) -> None:
    request = make_request("long", max_tokens=5000)
    recording = world.streams.submit(request, key=KEY, form=b"", on_end=lambda: None)
    world.engine.say("long:0", 0, *ids_of("x" * 3000))
    reader = recording.read([2000])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(others())
    texts = []
    while sum(map(len, texts)) < 3000:
        texts += [event.text for event in await anext(reader)]
        await asyncio.sleep(0)
    watching.cancel()
    assert turns >= 5
    assert "".join(texts) == "x" * 3000
    lengths = [sum(map(len, texts[:count])) for count in range(len(texts))]
    assert 2000 in lengths, "a delta ends where the reader left off"
