"""Streams of a server whose engine is killed under them: the tokens that each has received, over time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from benchmarks.pauses import serves
from benchmarks.serving import PENSTOCK
from scripts.pictures import style

STREAMS = 6
TOKENS = 900
APART = 0.25
"""Seconds between the beginnings of two streams."""
KILL_AFTER = 0.5
"""Seconds after the first token of the last one."""
VARIANTS: dict[str, tuple[str, ...]] = {"kill -9 of the engine": (), "the same with --standby": ("--standby",)}


@dataclass
class Stream:
    """Output tokens, and how many there were at which time."""

    ids: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def take(self, line: str, now: float) -> None:
        """A line of the response. Raises ValueError for an error event."""
        if not line.startswith("data: {"):
            return
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise ValueError(line)
        for choice in chunk["choices"]:
            self.ids += choice.get("token_ids") or []
        self.arrivals.append((now, len(self.ids)))


@dataclass(frozen=True)
class Kill:
    """What happened; times are seconds from the first token of all streams."""

    at: float
    streams: list[Stream]

    @property
    def pauses(self) -> list[tuple[float, float]]:
        """Of each stream, from its last token before the kill (or shortly after) to its next."""
        found = []
        for stream in self.streams:
            times = [at for at, _ in stream.arrivals]
            gaps = [(b - a, a, b) for a, b in pairwise(times) if b > self.at]
            if gaps:
                found.append(max(gaps)[1:])
        return found


def observe(streams: int = STREAMS, tokens: int = TOKENS) -> dict[str, Kill]:
    """A kill of each variant. Every stream must be the one that is not disturbed."""
    return {name: _kill(arguments, streams, tokens) for name, arguments in VARIANTS.items()}


def _kill(arguments: Sequence[str], streams: int, tokens: int) -> Kill:
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [*PENSTOCK, *arguments, "--port", str(port), "--log-level", "error"]
        with processes.run(command, log) as process:
            processes.wait_until_ready(process, f"{url}/ready", log, 600)
            undisturbed = asyncio.run(_read_all(url, streams, tokens, None))
            time.sleep(5 if arguments else 0)  # a standby loads meanwhile
            engine = next(each for each in processes.tree(process.pid)[1:] if serves(each)).pid
            disturbed = asyncio.run(_read_all(url, streams, tokens, engine))
    if [each.ids for each in disturbed.streams] != [each.ids for each in undisturbed.streams]:
        raise SystemExit("a stream is not what it was without the kill")
    return disturbed


async def _read_all(url: str, streams: int, tokens: int, engine: int | None) -> Kill:
    found = [Stream() for _ in range(streams)]
    flowing = [asyncio.Event() for _ in found]
    killed = 0.0
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client, asyncio.TaskGroup() as group:
        for number, stream in enumerate(found):
            group.create_task(_read(client, number, stream, tokens, flowing[number]))
        if engine is not None:
            for each in flowing:
                await each.wait()
            await asyncio.sleep(KILL_AFTER)
            os.kill(engine, signal.SIGKILL)
            killed = time.monotonic()
    began = min(stream.arrivals[0][0] for stream in found)
    for stream in found:
        stream.arrivals = [(at - began, count) for at, count in stream.arrivals]
    return Kill(killed - began, found)


async def _read(client: httpx.AsyncClient, number: int, stream: Stream, tokens: int, flows: asyncio.Event) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"Count from {number} to 99."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "seed": number,
        "return_token_ids": True,
    }
    await asyncio.sleep(number * APART)
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            stream.take(line, time.monotonic())
            if stream.ids:
                flows.set()


def draw(kills: dict[str, Kill], path: Path) -> None:
    picture = style.figure(11, 3.8)
    panels = picture.subplots(1, len(kills), sharey=True, squeeze=False)[0]
    for axes, (title, kill) in zip(panels, kills.items(), strict=True):
        for number, stream in enumerate(kill.streams):
            times, counts = zip(*stream.arrivals, strict=True)
            axes.step(times, counts, where="post", color=style.STREAMS[number % len(style.STREAMS)], linewidth=1.4)
        axes.axvline(kill.at, color=style.SHARED, linestyle="--", linewidth=1.2)
        if kill.pauses:
            longest = max(end - begin for begin, end in kill.pauses)
            axes.axvspan(kill.at, max(end for _, end in kill.pauses), color=style.KEPT, alpha=0.5, linewidth=0)
            title += f": the longest pause is {longest:.1f} s"
        axes.set(xlabel="seconds", title=title)
        axes.title.set_fontsize(10)
        style.plain(axes)
    picture.axes[0].set_ylabel("tokens received")
    style.save(picture, path)
