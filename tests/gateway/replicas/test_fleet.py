"""Several fake engines, each a real process, under one lifecycle."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from supervised import FAKE_ENGINE, LIMITS, tokenizer

from engine.config import EngineConfig
from engine.messages import Loading
from engine.sampling_params import SamplingParams
from gateway.completion.events import Delta
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.request import Request
from gateway.completion.stream import Stream
from gateway.errors import Unavailable
from gateway.replicas.fleet import Fleet
from gateway.replicas.launchers.process import ProcessLauncher
from gateway.replicas.supervisor import EngineGoneError
from observability.records import Record


class Host:
    def __init__(self, replicas: int, misbehave: str = "", which: int = -1) -> None:
        self.loading: list[Loading] = []
        self.lifecycle = Lifecycle(tokenizer(), record=self.record, replicas=replicas)
        command = [sys.executable, str(FAKE_ENGINE), "--misbehave", misbehave, "--which", str(which), "--pace", "0.01"]
        configs = [EngineConfig(model="none", replica=replica, replicas=replicas) for replica in range(replicas)]
        self.fleet = Fleet(
            configs, ProcessLauncher(command), self.lifecycle, on_loading=self.loading.append, limits=LIMITS
        )

    def record(self, record: Record, *, replica: str = "0") -> None:
        pass

    def submit(self, number: int, max_tokens: int) -> Stream:
        params = SamplingParams(max_tokens=max_tokens)
        request = Request(id=f"r{number}", tenant="t", prompts=([number],), params=(params,), seed=0)
        return self.lifecycle.submit(request)


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    host.fleet.start()
    try:
        await host.fleet.wait_ready()
        yield host
    finally:
        await host.fleet.stop()


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def ids_of(stream: Stream) -> list[int]:
    deltas = [event async for events in stream for event in events if isinstance(event, Delta)]
    return [token.id for delta in deltas for token in delta.tokens]


async def test_all_start_and_all_end() -> None:
    host = Host(3)
    async with running(host):
        pids = [supervisor.pid for supervisor in host.fleet.supervisors]
        assert len(set(pids)) == 3 and None not in pids
        assert host.lifecycle.replicas == (3, 3)
    assert [(stage.stage, stage.done, stage.total) for stage in host.loading if stage.stage == "replicas"] == [
        ("replicas", 1, 3),
        ("replicas", 2, 3),
        ("replicas", 3, 3),
    ]
    assert sum(stage.stage == "weights" for stage in host.loading) == 1, "of the first replica alone"
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_one_engine_says_nothing_of_replicas() -> None:
    host = Host(1)
    async with running(host):
        assert [stage.stage for stage in host.loading] == ["weights"]


async def test_streams_of_a_killed_replica_go_on_and_it_returns() -> None:
    async with running(Host(2)) as host:
        reading = [asyncio.create_task(ids_of(host.submit(number, 50))) for number in range(1, 9)]
        await asyncio.sleep(0.2)
        victim = host.fleet.supervisors[1]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        assert await asyncio.gather(*reading) == [list(range(number, number + 50)) for number in range(1, 9)]
        await eventually(lambda: host.lifecycle.replicas == (2, 2))
        assert [supervisor.epoch for supervisor in host.fleet.supervisors] == [1, 2]


@pytest.mark.parametrize("replicas", [1, 2])
async def test_one_that_cannot_start_ends_the_start_and_is_named(replicas: int) -> None:
    host = Host(replicas, "refuse", which=replicas - 1)
    host.fleet.start()
    with pytest.raises(EngineGoneError) as caught:
        await host.fleet.wait_ready()
    assert str(caught.value) == ("no such model" if replicas == 1 else "replica 1: no such model")
    await host.fleet.stop()


async def test_without_any_replica_the_reason_is_told() -> None:
    host = Host(2, "refuse")
    host.fleet.start()
    with pytest.raises(EngineGoneError):
        await host.fleet.wait_ready()
    await eventually(lambda: host.lifecycle.failure is not None)
    with pytest.raises(Unavailable, match="no such model"):
        host.submit(1, 1)
    await host.fleet.stop()
