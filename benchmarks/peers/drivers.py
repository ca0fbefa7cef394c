"""A started contender that takes jobs: over HTTP, or as a library through the pipes of a worker."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import uvloop

from benchmarks import processes
from benchmarks.peers import environments
from benchmarks.peers.contenders import Contender
from gateway.load.client import Client, Course, Exchange, Request
from gateway.load.traffic import closed_loop, interrupted

LIMIT = 600.0
"""Seconds for a start, and for one answer."""


@dataclass(frozen=True)
class Job:
    """A closed loop of ``streams``; once all of them are being answered, ``late`` ones, one in ``every`` seconds."""

    streams: list[Request]
    concurrency: int
    late: list[Request]
    every: float = 1.0


class Driver(Protocol):
    def run(self, job: Job) -> tuple[list[Course], list[Course]]:
        """Courses of the streams and of the late requests. Raises RuntimeError where the contender fails."""
        ...


@dataclass(frozen=True)
class HttpDriver:
    client: Client

    def run(self, job: Job) -> tuple[list[Course], list[Course]]:
        async def load() -> tuple[list[Exchange], list[Exchange]]:
            if job.late:
                return await interrupted(self.client.ask, job.streams, job.late, job.every)
            return await closed_loop(self.client.ask, job.streams, job.concurrency), []

        streams, late = uvloop.run(load())
        return [exchange.read() for exchange in streams], [exchange.read() for exchange in late]


@dataclass(frozen=True)
class WorkerDriver:
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def ready(cls, process: subprocess.Popen[bytes], log: Path) -> WorkerDriver:
        """Waits until the worker has its model."""
        driver = cls(process, log)
        driver.receive()
        return driver

    def run(self, job: Job) -> tuple[list[Course], list[Course]]:
        def plain(request: Request) -> dict[str, Any]:
            return {"ids": list(request.prompt.ids), "tokens": request.output_tokens}

        message = {
            "streams": [plain(request) for request in job.streams],
            "concurrency": job.concurrency,
            "late": [plain(request) for request in job.late],
            "every": job.every,
        }
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.receive()
        return [Course(**course) for course in answer["streams"]], [Course(**course) for course in answer["late"]]

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], LIMIT)[0]:
            raise RuntimeError(f"the worker said nothing for {LIMIT:g} s\n{processes.tail(self.log)}")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended\n{processes.tail(self.log)}")
        return dict(json.loads(line))


@dataclass
class Started:
    """A contender that runs, and how long it took from the start of its process to its first answer."""

    contender: Contender
    pid: int
    driver: Driver
    seconds: float


def _read(model: Path) -> None:
    """Into the page cache, so that a start measures the contender and not the disk."""
    for path in model.iterdir() if model.is_dir() else [model]:
        with path.open("rb", buffering=0) as file:
            while file.read(2**24):
                pass


@contextlib.contextmanager
def start(contender: Contender, models: Path, checkpoint: str, first: Request, logs: Path) -> Iterator[Started]:
    """Run ``contender`` on a model until the exit. Raises StartError or RuntimeError where it does not answer."""
    if contender.environment:
        environments.make(contender.environment)
    model = contender.prepare(models, checkpoint).resolve()
    _read(model)
    port = processes.free_port()
    log = logs / f"{contender.name}-{checkpoint}.log"
    command = contender.command(model, port)
    began = time.perf_counter()
    with processes.run(command, log, contender.variables(), pipes=contender.is_library) as process:
        if contender.is_library:
            driver: Driver = WorkerDriver.ready(process, log)
        else:
            url = f"http://127.0.0.1:{port}"
            processes.wait_until_ready(process, url + contender.ready, log, LIMIT)
            driver = HttpDriver(Client(url, str(model), extra=contender.extra))
        courses, _ = driver.run(Job([first], 1, []))
        if courses[0].error:
            raise RuntimeError(f"{contender.name}: {courses[0].error}\n{processes.tail(log)}")
        yield Started(contender, process.pid, driver, time.perf_counter() - began)
