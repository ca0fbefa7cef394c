"""Thirty-two streams of the openai client over a server whose engines die all the time: none of them differs."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from streams import STREAMS, TOKENS, Heard, listen_to_all, new

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 10
SEED = 20
INTERVAL = ("--stream-interval", "0.3")
"""Few events, so that the clients, which are slower than the server, hear at once what is so."""
PACE = "0.1"
"""Seconds more for each step until the last kill: streams must not be over before it, on a busy machine either."""


def in_mid_output(heard: list[Heard]) -> int:
    return sum(stream.in_mid_output for stream in heard)


async def progress(streams: asyncio.Task[Any], heard: list[Heard], tokens: int) -> None:
    """Until half of the streams have so many more, or one at least."""
    before = [stream.tokens for stream in heard]
    while not streams.done():
        gained = [stream.tokens - then for stream, then in zip(heard, before, strict=True) if stream.usage is None]
        if statistics.median(gained) >= tokens and max(gained):
            return
        await asyncio.sleep(0.005)


async def up(server: Any, dead: int) -> int:
    """The process id of the engine after that one, when it serves."""
    while True:
        status = await asyncio.to_thread(server.status, "/health")
        assert status == 200, "a replay is under way, and that is no failure"
        pids = server.engine_pids()
        if pids and dead not in pids and await asyncio.to_thread(server.status, "/ready") == 200:
            return int(pids[0])
        await asyncio.sleep(0.02)


async def all_flow(heard: list[Heard]) -> None:
    """Until all but those with stop strings are in mid-output."""
    for _ in range(10_000):
        if in_mid_output(heard) >= STREAMS - 3:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def ranks_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pauses(heard: list[Heard], faults: list[tuple[float, float, str]]) -> list[float]:
    """Of each stream at each kill: the time without an event around it, where no other fault fell in it.

    Of a fault: when it came, and when the next engine served. What an engine has said before it hangs arrives later.
    """
    found = []
    for stream in heard:
        for before, after in zip(stream.arrivals, stream.arrivals[1:], strict=False):
            kills = sum(before < at <= after for at, _, what in faults if what == "kill")
            others = any(at <= after and before < until for at, until, what in faults if what != "kill")
            if kills == 1 and not others:
                found.append(after - before)
    return found


async def test_engines_that_are_killed_stopped_and_stuck_are_pauses(start_server: Any, faults: Path) -> None:
    rng, slow = random.Random(SEED), faults / "slow"
    with start_server(*INTERVAL) as server:
        undisturbed = await listen_to_all(server, new())
        assert sum(TOKENS in map(len, ids.values()) for _, ids, *_ in undisturbed) >= 28
        await asyncio.to_thread(slow.write_text, PACE)
        heard = new()
        streams = asyncio.create_task(listen_to_all(server, heard))
        (pid,) = server.engine_pids()
        await progress(streams, heard, 1)
        await all_flow(heard)
        done: list[tuple[float, float, str]] = []
        schedule = ["kill"] * KILLS
        schedule[5:5], schedule[12:12] = ["stop"], ["hang"]
        for what in schedule:
            await progress(streams, heard, rng.randrange(12))
            assert in_mid_output(heard) >= 24, f"{len(done)} faults came too late: the streams are over"
            began = time.monotonic()
            if what == "hang":
                await asyncio.to_thread((faults / "hang").touch)
            else:
                os.kill(pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            pid = await up(server, pid)
            done.append((began, time.monotonic(), what))
        await asyncio.to_thread(slow.unlink)
        assert await streams == undisturbed
        server.wait_idle()
        log = server.log.read_text()
        # While a suspect runs alone, all others wait for it.
        not_done = [
            int(running) + int(waiting)
            for running, waiting in re.findall(r"replica 0 lost .* with (\d+) choices in flight; (\d+) wait", log)
        ]
        assert len(not_done) == KILLS + 2 and min(not_done) >= 24
        assert server.counted("penstock_engine_losses_total", cause="signal") == KILLS
        assert server.counted("penstock_engine_losses_total", cause="silent") == 1
        assert server.counted("penstock_engine_losses_total", cause="stalled") == 1
        assert server.counted("penstock_poison_requests_total") == 0
        assert "silent for 10 s; it is stopped by a signal and cannot write its own stacks; thread" in log
        assert "most recent call first" in log and "in hang_once" in log
        found = pauses(heard, done)
        print(f"{KILLS} kills: a pause of {statistics.median(found):.2f} s (median), {max(found):.2f} s (longest)")

    with start_server(*INTERVAL, "-tp", "2") as server:
        await asyncio.to_thread(slow.write_text, PACE)
        heard = new()
        streams = asyncio.create_task(listen_to_all(server, heard))
        (pid,) = server.engine_pids()
        ranks = ranks_of(pid)
        assert len(ranks) == 2
        await all_flow(heard)
        await progress(streams, heard, 20)
        assert in_mid_output(heard) >= 24
        os.kill(ranks[1], signal.SIGKILL)
        await up(server, pid)
        await asyncio.to_thread(slow.unlink)
        assert await streams == undisturbed, "ranks answer as one, and go on as one"
        assert server.counted("penstock_engine_losses_total", cause="error") == 1
