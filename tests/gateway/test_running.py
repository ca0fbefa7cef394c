"""An upgrade that is called off: what has begun to make room is undone, however far it has come."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers_for_tests as families
from engine_for_tests import FakeEngine, Records, make_request

from gateway.assembly import Assembly
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.streams import Streams
from gateway.drain import Stop
from gateway.running import RunningServer


class FakeFleet:
    """Of one replica, which takes until ``may_end`` to end."""

    def __init__(self, lifecycle: Lifecycle, epoch: int) -> None:
        self.lifecycle = lifecycle
        self.supervisors = [SimpleNamespace(epoch=epoch)]
        self.stopping, self.may_end = asyncio.Event(), asyncio.Event()
        self.stops = 0
        self.engine: FakeEngine | None = None

    def start(self) -> None:
        self.engine = FakeEngine(self.lifecycle, epoch=self.supervisors[0].epoch)

    async def wait_ready(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopping.set()
        await self.may_end.wait()
        self.stops += 1


class FakeHttp:
    def __init__(self) -> None:
        self.accepts = True

    def stop_accepting(self) -> None:
        self.accepts = False

    def close_idle(self) -> None:
        pass

    async def accept(self, listener: socket.socket) -> None:
        self.accepts = True


class World:
    def __init__(self, listener: socket.socket) -> None:
        self.lifecycle = Lifecycle(families.byte_level(), record=Records())
        self.streams = Streams(self.lifecycle, families.byte_level())
        self.fleets: list[FakeFleet] = []
        self.http, self.stop = FakeHttp(), Stop()
        self.new_fleet().start()
        parts: Any = SimpleNamespace(
            lifecycle=self.lifecycle,
            streams=self.streams,
            fleet=self.fleets[0],
            new_fleet=self.new_fleet,
            http=self.http,
        )
        assert {*vars(parts)} == {*Assembly.__dataclass_fields__}
        self.server = RunningServer(parts, listener, self.stop, url="", drain_timeout=10.0)

    def new_fleet(self) -> FakeFleet:
        self.fleets.append(FakeFleet(self.lifecycle, len(self.fleets) + 1))
        return self.fleets[-1]

    def assert_served_by(self, fleet: FakeFleet) -> None:
        assert self.http.accepts and not self.stop.leaving
        self.lifecycle.submit(make_request("after"))
        assert fleet.engine is not None
        assert [start.id for start in fleet.engine.starts] == ["after:0"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with socket.socket() as listener:
        yield World(listener)


async def test_called_off_while_the_engines_end_others_are_started(world: World) -> None:
    making_room = asyncio.create_task(world.server.make_room())
    await world.fleets[0].stopping.wait()
    making_room.cancel()
    await asyncio.gather(making_room, return_exceptions=True)
    going_on = asyncio.create_task(world.server.go_on())
    await asyncio.sleep(0)
    assert len(world.fleets) == 1 and not world.http.accepts, "two sets of engines have no room"
    world.fleets[0].may_end.set()
    await going_on
    assert world.fleets[0].stops == 1
    world.assert_served_by(world.fleets[1])


async def test_called_off_when_the_engines_have_ended_others_are_started_each_time(world: World) -> None:
    for fleet in range(2):
        world.fleets[fleet].may_end.set()
        await world.server.make_room()
        await world.server.go_on()
    world.assert_served_by(world.fleets[2])


async def test_called_off_while_requests_end_the_engines_stay(world: World) -> None:
    world.lifecycle.submit(make_request("before"))
    making_room = asyncio.create_task(world.server.make_room())
    await asyncio.sleep(0)
    making_room.cancel()
    await asyncio.gather(making_room, return_exceptions=True)
    await world.server.go_on()
    assert len(world.fleets) == 1 and not world.fleets[0].stopping.is_set()
    assert world.http.accepts


async def test_an_engine_that_is_away_by_itself_is_its_supervisors_affair(world: World) -> None:
    """Nothing was ended yet: another fleet would be a second one."""
    assert world.fleets[0].engine is not None
    world.fleets[0].engine.lose()
    await world.server.go_on()
    assert len(world.fleets) == 1


async def test_where_the_server_is_to_end_no_engines_are_started(world: World) -> None:
    world.fleets[0].may_end.set()
    await world.server.make_room()
    world.stop.asked.set()
    await world.server.go_on()
    assert len(world.fleets) == 1 and not world.http.accepts
