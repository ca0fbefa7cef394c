"""The engine process is really killed under real streams: they pause, and go on with nothing lost or repeated."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

STREAMS = 8
TOKENS = 600
BETWEEN_KILLS = 20
"""Tokens that every reader gets. Few, since readers may lag far behind the engine; after a kill they catch up."""


def request(number: int) -> dict[str, Any]:
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": f"Count from {number} to 90."}],
        "max_tokens": TOKENS,
        "temperature": 0.7,
        "seed": number,
        "logprobs": True,
        "extra_body": {"ignore_eos": True, "min_tokens": TOKENS},
    }


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def run_streams(server: Any, counts: list[int]) -> list[tuple[str, list[str], str | None, int]]:
    """(text, tokens, finish reason, completion tokens) of each stream; ``counts`` follows how far each has come."""

    async def one(number: int) -> tuple[str, list[str], str | None, int]:
        text, tokens, finish, used = "", [], None, 0
        stream = await client.chat.completions.create(
            **request(number), stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            if chunk.usage:
                used = chunk.usage.completion_tokens
            for choice in chunk.choices:
                text += choice.delta.content or ""
                if choice.logprobs:
                    tokens += [token.token for token in choice.logprobs.content]
                    counts[number] = len(tokens)
                finish = choice.finish_reason or finish
        return text, tokens, finish, used

    async with server.async_client() as client:
        return await asyncio.gather(*[one(number) for number in range(len(counts))])


async def progress(streams: asyncio.Task[Any], counts: list[int], tokens: int) -> None:
    """Until every reader has so many more."""
    before = list(counts)
    while any(now < then + tokens for now, then in zip(counts, before, strict=True)):
        assert not streams.done()
        await asyncio.sleep(0.005)


async def test_killed_and_stopped_engines_are_pauses(start_server: Any) -> None:
    with start_server("--dtype", "float32") as server:
        undisturbed = await run_streams(server, [0] * STREAMS)
        assert all(used == TOKENS for *_, used in undisturbed)
        counts = [0] * STREAMS
        streams = asyncio.create_task(run_streams(server, counts))
        longest = 0.0
        for kill in range(1, 4):
            await progress(streams, counts, BETWEEN_KILLS)
            (pid,) = server.engine_pids()
            assert max(counts) < TOKENS, "a kill must land in the middle of every stream"
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            while await asyncio.to_thread(server.counted, "penstock_engine_restarts_total") < kill:
                assert await asyncio.to_thread(server.status, "/health") == 200
                await asyncio.sleep(0.02)
            await progress(streams, counts, 1)
            longest = max(longest, time.monotonic() - killed_at)
            assert server.engine_pids() != [pid]
        assert await streams == undisturbed
        assert server.metric("penstock_engine_restarts_total") == 3
        assert server.metric("penstock_replays_total") == 3 * STREAMS
        server.wait_idle()
    print(f"longest pause: {longest:.1f} s")


async def test_streams_of_a_killed_replica_go_on_at_another(start_server: Any) -> None:
    with start_server("--dtype", "float32", "--replicas", "2") as server:
        await asyncio.to_thread(server.wait_for_replicas, 2)
        undisturbed = await run_streams(server, [0] * 16)
        assert all(used == TOKENS for *_, used in undisturbed)
        counts = [0] * 16
        streams = asyncio.create_task(run_streams(server, counts))
        await progress(streams, counts, BETWEEN_KILLS)
        busy = {replica: server.metric("penstock_sequences_running", replica=replica) for replica in "01"}
        assert sum(busy.values()) == 16 and all(busy.values()), "both have work"
        assert max(counts) < TOKENS, "the kill must land in the middle of every stream"
        os.kill(server.engine_of(0), signal.SIGKILL)
        while not (replayed := await asyncio.to_thread(server.counted, "penstock_replays_total")):
            assert not streams.done()
        assert server.metric("penstock_engine_up", replica="0") == 0, "nobody waits for it to come back"
        assert server.counted("penstock_replays_total", replica="1") == replayed == busy["0"]
        assert server.status("/health") == server.status("/ready") == 200
        assert await streams == undisturbed
        await asyncio.to_thread(server.wait_for_replicas, 2)
        assert server.metric("penstock_engine_restarts_total", replica="0") == 1
        assert server.metric("penstock_engine_restarts_total", replica="1") == 0
        server.wait_idle()


def test_nothing_is_left_when_the_server_itself_is_killed(start_server: Any) -> None:
    with start_server("--replicas", "2") as server:
        pids = server.engine_pids()
        assert len(pids) == 2
        server.process.kill()
        end = time.monotonic() + 30
        while any(map(alive, pids)):
            assert time.monotonic() < end, "an engine outlives its gateway"
            time.sleep(0.02)


async def test_one_that_stands_by_goes_on(start_server: Any) -> None:
    with start_server("--dtype", "float32", "--standby") as server:
        undisturbed = await run_streams(server, [0] * STREAMS)
        counts = [0] * STREAMS
        streams = asyncio.create_task(run_streams(server, counts))
        await progress(streams, counts, BETWEEN_KILLS)
        first, spare = server.engine_pids()
        assert max(counts) < TOKENS
        os.kill(first, signal.SIGKILL)
        assert await streams == undisturbed
        assert server.metric("penstock_engine_restarts_total") == 1
        assert server.engine_pids()[0] == spare, "what stood by serves"
    assert not alive(spare)
