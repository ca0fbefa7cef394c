"""How long streams pause when the engine is killed under them.

    python -m benchmarks.pauses --streams 32 --kills 8
    python -m benchmarks.pauses --streams 1 --serve="--standby"

Every stream is one request after the other, each for many tokens. When all flow the engine gets SIGKILL; a stream's
pause is the time from then to its first event of the next engine. The next kill follows once all flow again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import processes
from benchmarks.serving import PENSTOCK

TOKENS = 600
"""Of each answer."""
SETTLE = 2.0
"""Seconds that streams flow before a kill."""
LAST_WORDS = 0.1
"""Seconds in which events of the engine that was killed still arrive."""


class Streams:
    """``number`` of them, each with the time of its last events."""

    def __init__(self, client: httpx.AsyncClient, number: int) -> None:
        self._client = client
        self.arrivals: list[list[float]] = [[] for _ in range(number)]
        self._news = asyncio.Event()

    async def run(self, number: int) -> None:
        """One request after the other, for ever."""
        body = {
            "messages": [{"role": "user", "content": f"Count from {number} to 99."}],
            "max_tokens": TOKENS,
            "min_tokens": TOKENS,
            "stream": True,
            "temperature": 1.0,
            "seed": number,
        }
        while True:
            async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if line.startswith('data: {"error"'):
                        raise SystemExit(f"a stream failed: {line}")
                    if line.startswith("data: {"):
                        self.arrivals[number].append(time.monotonic())
                        self._news.set()

    async def flow(self, after: float) -> list[float]:
        """Until each has had events after that moment; gives the first one's."""
        while not all(each and each[-1] > after for each in self.arrivals):
            self._news.clear()
            await self._news.wait()
        return [next(at for at in each if at > after) for each in self.arrivals]


async def measure(url: str, pid: int, number: int, kills: int) -> list[list[float]]:
    """For each kill the pause of each stream, in seconds."""
    found = []
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        streams = Streams(client, number)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(streams.run(each)) for each in range(number)]
            for _ in range(kills):
                await streams.flow(time.monotonic())
                await asyncio.sleep(SETTLE)
                engine = next(each for each in processes.tree(pid)[1:] if serves(each))
                killed = time.monotonic()
                os.kill(engine.pid, signal.SIGKILL)
                found.append([at - killed for at in await streams.flow(killed + LAST_WORDS)])
            for task in running:
                task.cancel()
    return found


def serves(engine: psutil.Process) -> bool:
    """Not a standby, which has just waited: of two engines the first was started earlier."""
    siblings = [each for each in psutil.Process(engine.ppid()).children() if each.pid != engine.pid]
    return all(engine.create_time() <= each.create_time() for each in siblings)


def show(found: Sequence[Sequence[float]], console: Console) -> None:
    table = Table("kill", "median s", "longest s", title="pause of a stream")
    for number, pauses in enumerate(found, 1):
        table.add_row(str(number), f"{statistics.median(pauses):.2f}", f"{max(pauses):.2f}")
    every = [pause for pauses in found for pause in pauses]
    table.add_row("all", f"{statistics.median(every):.2f}", f"{max(every):.2f}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument(
        "--serve", default="", metavar="ARGS", help="more arguments of penstock serve, MODEL among them"
    )
    options = parser.parse_args(arguments)
    processes.end_at_signals()
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [*PENSTOCK, *shlex.split(options.serve), "--port", str(port), "--log-level", "error"]
        with processes.run(command, log) as process:
            processes.wait_until_ready(process, f"{url}/ready", log, 600)
            found = asyncio.run(measure(url, process.pid, options.streams, options.kills))
    show(found, Console())


if __name__ == "__main__":
    main()
