"""A long run: mixed load on a real server whose engine is killed now and then, and what the server holds meanwhile.

    python -m benchmarks.soak --minutes 60 --save soak.json
    python -m benchmarks.soak --minutes 5 --kills 2 --serve "--replicas 2"

The same requests come again and again and must get the same answers. Every few minutes the load pauses: then no block,
request or process may be left over. Each pause is a row of the table. The status is 1 where an answer failed or
changed, or anything was held while idle; whether memory grows is for the reader to judge.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shlex
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks import processes
from benchmarks.load.mixed import Load
from benchmarks.serving import PENSTOCK

SETTLE = 60.0
"""Seconds within which a server without requests must hold nothing."""
HELD = ("requests_running", "requests_queued", "sequences_running", "sequences_waiting", "kv_cache_usage_ratio")


@dataclass(frozen=True)
class Sample:
    """The server at one moment."""

    minute: float
    idle: bool
    gateway_mib: float
    gateway_descriptors: int
    gateway_threads: int
    engine_mib: float
    """Of all engines, ranks included."""
    engine_descriptors: int
    processes: int
    losses: int
    replays: int
    requests: int
    held: dict[str, float]
    """What was held while idle; empty where nothing was."""


class Metrics:
    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url, self._client = url, client

    async def read(self) -> dict[str, float]:
        """Sums over all labels."""
        text = (await self._client.get(f"{self._url}/metrics")).raise_for_status().text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix("penstock_")
                found[name] = found.get(name, 0.0) + sample.value
        return found


class Soak:
    def __init__(self, url: str, pid: int, options: argparse.Namespace, client: httpx.AsyncClient) -> None:
        self._options = options
        self._pid = pid
        self._client = client
        self._rng = random.Random(options.seed)
        self._metrics = Metrics(url, client)
        self._load = Load(url, options.clients, options.seed, options.pool)
        self._began = time.monotonic()
        self._samples: list[Sample] = []
        self._kills: dict[str, int] = {}

    async def run(self) -> dict[str, Any]:
        end = self._began + 60 * self._options.minutes
        await self._sample(idle=True)
        self._load.start(self._client)
        killing = asyncio.create_task(self._kill_now_and_then())
        while (left := end - time.monotonic()) > 0:
            await self._look_on(min(left, 60 * self._options.pause_every))
            killing.cancel()
            await self._load.pause()
            await self._sample(idle=True)
            self._load.go_on()
            killing = asyncio.create_task(self._kill_now_and_then())
        killing.cancel()
        await self._load.stop()
        await self._sample(idle=True)
        outcomes = self._load.outcomes
        return {
            "settings": {name: str(value) for name, value in vars(self._options).items()},
            "kills": self._kills,
            "outcomes": dict(outcomes.counts),
            "failures": outcomes.failures,
            "samples": [asdict(sample) for sample in self._samples],
        }

    async def _look_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._options.sample_every))
            await self._sample(idle=False)

    async def _kill_now_and_then(self) -> None:
        """Mostly SIGKILL; one in ten is only stopped, which takes the gateway some seconds to notice."""
        if not self._options.kills:
            return
        while True:
            await asyncio.sleep(self._rng.expovariate(self._options.kills / 60))
            if (await self._metrics.read())["engine_up"] < self._options.replicas:
                continue  # a start that fails three times is given up
            engines = [each for each in self._family()[1:] if each.ppid() == self._pid]
            number = signal.SIGSTOP if self._rng.random() < 0.1 else signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rng.choice(engines).pid, number)
                self._kills[number.name] = self._kills.get(number.name, 0) + 1

    def _family(self) -> list[psutil.Process]:
        return processes.tree(self._pid)

    async def _sample(self, *, idle: bool) -> None:
        numbers = await (self._settled() if idle else self._metrics.read())
        gateway, *engines = self._family()
        sizes, descriptors = [], []
        for engine in engines:
            with contextlib.suppress(psutil.NoSuchProcess):
                sizes.append(engine.memory_info().rss)
                descriptors.append(engine.num_fds())
        self._samples.append(
            Sample(
                minute=round((time.monotonic() - self._began) / 60, 2),
                idle=idle,
                gateway_mib=round(gateway.memory_info().rss / 2**20, 1),
                gateway_descriptors=gateway.num_fds(),
                gateway_threads=gateway.num_threads(),
                engine_mib=round(sum(sizes) / 2**20, 1),
                engine_descriptors=sum(descriptors),
                processes=1 + len(engines),
                losses=int(numbers.get("engine_losses_total", 0)),
                replays=int(numbers.get("replays_total", 0)),
                requests=int(numbers.get("requests_total", 0)),
                held={name: numbers[name] for name in HELD if numbers[name]} if idle else {},
            )
        )

    async def _settled(self) -> dict[str, float]:
        """The metrics once nothing is held and every engine is up, or as they are after ``SETTLE`` seconds."""
        end = time.monotonic() + SETTLE
        while True:
            numbers = await self._metrics.read()
            up = numbers["engine_up"] == self._options.replicas
            if time.monotonic() > end or (up and not any(numbers[name] for name in HELD)):
                return numbers
            await asyncio.sleep(0.2)


def is_well(result: dict[str, Any]) -> bool:
    """No answer failed or changed, and nothing was held while idle."""
    outcomes = result["outcomes"]
    bad = outcomes.get("failed", 0) + outcomes.get("changed", 0)
    return not bad and bool(outcomes.get("same")) and not any(sample["held"] for sample in result["samples"])


def show(result: dict[str, Any], console: Console) -> None:
    shown = {
        "minute": "minute",
        "gateway_mib": "gateway MiB",
        "gateway_descriptors": "its descriptors",
        "engine_mib": "engines MiB",
        "engine_descriptors": "their descriptors",
        "processes": "processes",
        "losses": "losses",
        "replays": "replays",
        "requests": "requests",
    }
    table = Table(*shown.values(), "held", title="while idle")
    for sample in result["samples"]:
        if sample["idle"]:
            table.add_row(*(f"{sample[name]:,}" for name in shown), str(sample["held"] or "nothing"))
    console.print(table)
    console.print("kills:", result["kills"], "answers:", result["outcomes"])
    for failure in result["failures"]:
        console.print(failure, markup=False)


async def soak(url: str, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    async with httpx.AsyncClient(timeout=300, trust_env=False, limits=limits) as client:
        return await Soak(url, pid, options, client).run()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=24, help="requests under way at a time (default: 24)")
    parser.add_argument("--kills", type=float, default=0.5, help="engines killed a minute, at random (default: 0.5)")
    parser.add_argument("--pool", type=int, default=120, help="different requests (default: 120)")
    parser.add_argument("--pause-every", type=float, default=5.0, metavar="MINUTES", help="to look at the idle server")
    parser.add_argument("--sample-every", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument(
        "--serve", default="", metavar="ARGS", help="more arguments of penstock serve, MODEL among them"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all samples there as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    processes.end_at_signals()
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    serve = ["--replicas", str(options.replicas), "--port", str(port), "--log-level", "warning"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with processes.run([*PENSTOCK, *shlex.split(options.serve), *serve], log) as process:
            processes.wait_until_ready(process, f"{url}/ready", log, 600)
            result = asyncio.run(soak(url, process.pid, options))
    if options.save:
        options.save.write_text(json.dumps(result, indent=1) + "\n")
    show(result, Console())
    if not is_well(result):
        raise SystemExit("an answer failed or changed, or something was held while idle")


if __name__ == "__main__":
    main()
