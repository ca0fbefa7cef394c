"""A gateway that is really stopped: its engine goes on for a while, and then ends; a gateway that wakes recovers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ASK: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 1900,
    "seed": 5,
    "extra_body": {"ignore_eos": True},
}


def has_ended(pid: int) -> bool:
    """Dead, whether or not its parent, which is stopped, has taken note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def text_of(client: Any, begun: asyncio.Event) -> str:
    text = ""
    async for chunk in await client.chat.completions.create(**ASK, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if text:
                begun.set()
    return text


async def test_a_stopped_gateway_loses_its_engine_and_goes_on_once_it_wakes(start_server: Any) -> None:
    with start_server("--engine-lease", "5") as server:
        async with server.async_client() as client:
            undisturbed = await text_of(client, asyncio.Event())
            begun = asyncio.Event()
            stream = asyncio.create_task(text_of(client, begun))
            await begun.wait()
            (pid,) = server.engine_pids()
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                stopped = time.monotonic()
                while not has_ended(pid):
                    assert time.monotonic() - stopped < 120, "the engine outlives its lease"
                    await asyncio.sleep(0.1)
                assert time.monotonic() - stopped > 3, "it was given time"
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            assert await asyncio.wait_for(stream, 120) == undisturbed
        assert server.metric("penstock_engine_restarts_total") == 1
        assert "no sign of life from the gateway for 5 s" in server.log.read_text()
