"""Two upgrades under load: no connection is refused, and every stream is what it would have been."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

STREAMS = 32
TOKENS = 400
UPGRADES = 2


async def one(client: Any, number: int) -> tuple[str, list[str], str | None, int]:
    """(text, tokens, finish reason, completion tokens)."""
    text, tokens, finish, used = "", [], None, 0
    stream = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": f"Count from {number} to 90."}],
        max_tokens=TOKENS,
        temperature=0.8,
        seed=number,
        logprobs=True,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.usage:
            used = chunk.usage.completion_tokens
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.logprobs:
                tokens += [f"{token.token} {token.logprob}" for token in choice.logprobs.content]
            finish = choice.finish_reason or finish
    return text, tokens, finish, used


async def again_and_again(client: Any, number: int, expected: Any, over: asyncio.Event) -> int:
    """The same request until ``over``; how often."""
    count = 0
    while not over.is_set():
        assert await one(client, number) == expected
        count += 1
    return count


async def hammer(url: str, over: asyncio.Event) -> int:
    """Every request by a connection of its own; anything but an answer is raised."""
    count = 0
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        while not over.is_set():
            (await client.get("/v1/models")).raise_for_status()
            count += 1
    return count


async def test_two_upgrades_under_load(start_server: Any) -> None:
    # Few events, so that the readers do not take longer than the engine.
    with start_server("--stream-interval", "0.5") as server:
        async with server.async_client(timeout=240) as client:
            expected = await asyncio.gather(*(one(client, number) for number in range(STREAMS)))
            assert all(used == TOKENS for *_, used in expected)
            over = asyncio.Event()
            load = [asyncio.create_task(again_and_again(client, *each, over)) for each in enumerate(expected)]
            knocks = [asyncio.create_task(hammer(server.url, over)) for _ in range(4)]
            under_load = 0
            for _ in range(UPGRADES):
                command = [
                    str(Path(sys.executable).parent / "penstock"),
                    "upgrade",
                    "--port",
                    server.url.rpartition(":")[2],
                ]
                result = await asyncio.to_thread(
                    subprocess.run, command, text=True, capture_output=True, timeout=240, check=False
                )
                assert result.returncode == 0, result.stderr
                under_load += "requests to finish" in result.stderr
            over.set()
            finished = await asyncio.gather(*load)
            answered = await asyncio.gather(*knocks)
        assert under_load, "there was work in mid-output"
        assert all(count >= 1 for count in finished)
        assert min(answered) > 10
    print(f"{sum(finished)} streams and {sum(answered)} connections across {UPGRADES} upgrades")
