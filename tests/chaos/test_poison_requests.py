"""Requests that crash the engine, each in its own way, among others: they fail by their names, the others notice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from streams import STREAMS, Heard, listen, new

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

POSITION = 40


async def run(server: Any, heard: list[Heard], poison: dict[int, int]) -> list[Any]:
    """What became of each stream; ``poison`` gives some of them other seeds."""
    async with server.async_client(timeout=300.0) as client:
        streams = [
            listen(client, number, each, tokens=80, **({"seed": poison[number]} if number in poison else {}))
            for number, each in enumerate(heard)
        ]
        return await asyncio.gather(*streams, return_exceptions=True)


async def test_the_guilty_fail_alone(start_server: Any, faults: Path) -> None:
    """One that ends the engine by a signal; then an exception, no memory and an exit, at the same time."""
    with start_server() as server:
        undisturbed = await run(server, new(), {})
        convicted = 0
        for poison in ({5: 666001}, {4: 666002, 6: 666003, 12: 666004}):
            heard = new()
            results = await run(server, heard, poison)
            for number in range(STREAMS):
                if number not in poison:
                    assert results[number].everything() == undisturbed[number].everything()
                    continue
                assert isinstance(results[number], openai.APIError)
                assert "was given up: the engine crashed each time it computed it" in str(results[number])
                assert results[number].code == "engine_crash"
                # What the last step before the end has made may still be on its way out of the process that ends.
                assert POSITION - 1 <= heard[number].tokens <= POSITION, "all that it had before was sent"
            convicted += len(poison)
            assert server.counted("penstock_poison_requests_total") == convicted
            assert server.status("/ready") == 200
            server.wait_idle()


async def test_one_of_three_replicas_is_taken_down_and_no_other(start_server: Any, faults: Path) -> None:
    with start_server("--replicas", "3", "--kv-cache-memory", "64MiB") as server:
        await asyncio.to_thread(server.wait_for_replicas, 3)
        undisturbed = await run(server, new(), {})
        results = await run(server, new(), {5: 666001})
        assert isinstance(results[5], openai.APIError)
        others = [number for number in range(STREAMS) if number != 5]
        assert [results[n].everything() for n in others] == [undisturbed[n].everything() for n in others]
        losses = [server.counted("penstock_engine_losses_total", replica=str(replica)) for replica in range(3)]
        assert sum(count > 0 for count in losses) == 1, losses
        server.wait_idle()
