"""The supervisor with real child processes that speak the engine's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from supervised import Host

from gateway.completion.events import Completed, Delta
from gateway.completion.stream import Stream
from gateway.errors import EngineCrash, Unavailable
from gateway.replicas.supervisor import EngineGoneError

ROOT = Path(__file__).parents[3]


@contextlib.asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    host.supervisor.start()
    try:
        await host.supervisor.wait_ready()
        yield host
    finally:
        await host.supervisor.stop()


async def ids_of(stream: Stream) -> list[int]:
    ids: list[int] = []
    async for events in stream:
        for event in events:
            if isinstance(event, Delta):
                ids.extend(token.id for token in event.tokens)
            elif isinstance(event, Completed):
                assert event.usage.completion_tokens == len(ids)
    return ids


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_request_runs_through_a_real_process_and_none_is_left_behind() -> None:
    async with running(Host()) as host:
        assert host.loading == ["weights"]
        assert await ids_of(host.submit("r", 10)) == list(range(1, 11))
        pid = host.supervisor.pid
        assert pid is not None
    assert not alive(pid)
    assert not host.causes or host.causes == ["exited with status 0"]


async def test_kill_9_is_a_pause() -> None:
    async with running(Host(pace=0.01)) as host:
        streams = [host.submit(f"r{n}", 60) for n in range(4)]
        reading = [asyncio.create_task(ids_of(stream)) for stream in streams]
        await asyncio.sleep(0.2)
        first = host.supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert await asyncio.gather(*reading) == [list(range(1, 61))] * 4
        assert host.causes == ["killed by signal 9"]
        assert host.supervisor.pid not in (first, None)
        assert host.supervisor.epoch == 2


async def test_a_stopped_process_is_killed_before_the_replay(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(Host(pace=0.01)) as host:
        reading = asyncio.create_task(ids_of(host.submit("r", 60)))
        await asyncio.sleep(0.1)
        first = host.supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        assert await reading == list(range(1, 61))
        assert not alive(first)
        assert host.causes == ["silent for 0.5 s"]


async def test_a_stuck_engine_that_still_beats_is_dumped_and_killed(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(Host("stall")) as host:
        await asyncio.sleep(0.7)
        assert not host.causes  # idle, it may stand still
        with pytest.raises(EngineCrash, match="r was given up"):
            await ids_of(host.submit("r", 5))
        assert host.causes == ["no step for 0.5 s with work pending"] * 3
    assert "dumped" in capfd.readouterr().err


async def test_a_malformed_message_is_a_loss() -> None:
    host = Host("garbage")
    async with running(host):
        with pytest.raises(EngineCrash):
            await ids_of(host.submit("r", 5))
        assert len(host.causes) == 3 and all(cause.startswith("MalformedFrameError") for cause in host.causes)


async def test_what_a_dying_engine_said_is_heard_before_the_loss() -> None:
    async with running(Host("die-after-step")) as host:
        for n in range(5):
            await eventually(lambda: host.lifecycle.ready)
            assert await ids_of(host.submit(f"r{n}", 1)) == [1]
            await eventually(lambda lost=n + 1: len(host.causes) == lost)


async def test_an_expected_failure_is_final_and_says_why() -> None:
    host = Host("refuse")
    host.supervisor.start()
    with pytest.raises(EngineGoneError, match="no such model"):
        await host.supervisor.wait_ready()
    assert host.supervisor.epoch == 1
    with pytest.raises(Unavailable, match="no such model"):
        host.submit("r", 1)
    await host.supervisor.stop()


async def test_crashes_in_start_up_are_tried_three_times() -> None:
    host = Host("crash-in-start-up")
    host.supervisor.start()
    with pytest.raises(EngineGoneError, match="exited with status 3"):
        await host.supervisor.wait_ready()
    assert host.supervisor.epoch == 3
    await host.supervisor.stop()


async def test_the_engine_dies_with_its_gateway(tmp_path: Path) -> None:
    """The lifeline: a gateway that is killed -9 leaves no engine behind."""
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("fake_gateway.py")),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert gateway.stdout is not None
    engine = int(await gateway.stdout.readline())
    assert alive(engine)
    gateway.kill()
    await gateway.wait()
    try:
        await eventually(lambda: not alive(engine))
    except TimeoutError:
        os.kill(engine, signal.SIGKILL)
        pytest.fail("the engine outlived its gateway")
