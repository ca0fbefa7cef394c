"""Engines are asked for pictures only while somebody looks, and never more often than they are told to be."""

from __future__ import annotations

import asyncio
from typing import Any

from engine_for_tests import INFO

from engine.messages import Idle, Look, PoolPicture
from gateway.lookout import INTERVAL, MOST_CELLS, Lookout
from gateway.replicas.loss import Loss
from observability.records import EngineState

STATE = EngineState(running=0, waiting=0, blocks_used=0, blocks_total=8)
LOSS = Loss("signal", "killed", own_doing=False)


def picture(stride: int) -> PoolPicture:
    return PoolPicture(state=STATE, stride=stride, cells=b"", sequences=[])


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def up(self, *what: Any) -> None:
        self.told.append(("up", *what[:2]))

    def lost(self, *what: Any) -> None:
        self.told.append(("lost", *what))

    def receive(self, *what: Any) -> None:
        self.told.append(("said", *what))

    def gave_up(self, *what: Any) -> None:
        self.told.append(("gave up", *what))


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_but_pictures_is_passed_on() -> None:
    listener = Listener()
    lookout = Lookout(listener)
    idle = Idle(state=STATE)
    lookout.up(1, 3, INFO, lambda _: None)
    lookout.receive(1, 3, idle)
    lookout.receive(1, 3, picture(1))
    lookout.lost(1, 3, LOSS)
    lookout.gave_up(1, "enough")
    assert listener.told == [("up", 1, 3), ("said", 1, 3, idle), ("lost", 1, 3, LOSS), ("gave up", 1, "enough")]


async def test_many_who_look_ask_once_and_nobody_asks_before_the_interval_is_over() -> None:
    clock, sent = Clock(), []
    lookout = Lookout(Listener(), clock)
    lookout.up(0, 1, INFO, sent.append)
    assert sent == [], "nobody looks"
    looks = [asyncio.ensure_future(lookout.look()) for _ in range(3)]
    await turns()
    assert sent == [Look(cells=MOST_CELLS)]
    lookout.receive(0, 1, picture(1))
    assert [await look for look in looks] == [{0: picture(1)}] * 3
    clock.time += INTERVAL / 2
    assert await lookout.look() == {0: picture(1)} and len(sent) == 1
    clock.time += INTERVAL
    again = asyncio.ensure_future(lookout.look())
    await turns()
    lookout.receive(0, 1, picture(2))
    assert await again == {0: picture(2)} and len(sent) == 2


async def test_an_engine_that_does_not_answer_is_not_waited_for(monkeypatch: Any) -> None:
    monkeypatch.setattr("gateway.lookout.PATIENCE", 0.01)
    clock, sent = Clock(), []
    lookout = Lookout(Listener(), clock)
    lookout.up(0, 1, INFO, sent.append)
    assert await lookout.look() == {}
    clock.time += 10 * INTERVAL
    assert await lookout.look() == {} and len(sent) == 1, "one question at a time"
    lookout.receive(0, 1, picture(1))
    clock.time += INTERVAL
    assert await lookout.look() == {0: picture(1)} and len(sent) == 2


async def test_a_lost_engine_leaves_no_picture_and_nobody_waiting() -> None:
    lookout = Lookout(Listener())
    lookout.up(0, 1, INFO, lambda _: None)
    look = asyncio.ensure_future(lookout.look())
    await turns()
    lookout.up(0, 2, INFO, lambda _: None)
    lookout.receive(0, 1, picture(1))
    lookout.lost(0, 1, LOSS)
    lookout.lost(0, 2, LOSS)
    assert await look == {}
