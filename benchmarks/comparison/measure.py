"""One turn of one contender at one cell, with what the machine did meanwhile."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks import processes
from benchmarks.comparison.cells import Cell
from benchmarks.peers.drivers import Job, Started
from gateway.load.client import Course
from gateway.load.prompts import PromptMaker
from gateway.load.summary import spread, summarize

QUIET = 0.2
"""Cores that others may use, stolen time included, before a turn counts as disturbed."""


@contextmanager
def awake(started: Started) -> Iterator[None]:
    """A peer runs only during its turn: some wait busily. Ours is left running, and waits without using any time."""
    if started.contender.is_ours:
        yield
        return
    processes.signal_tree(started.pid, signal.SIGCONT)
    try:
        yield
    finally:
        processes.signal_tree(started.pid, signal.SIGSTOP)


class Watch:
    """CPU time of a server, of this process, and of everything else, in cores, since it was made."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._before = self._read()

    def _read(self) -> tuple[float, float, float, float, float]:
        server = processes.cpu_seconds(self._pid) if self._pid else 0.0
        steal = getattr(psutil.cpu_times(), "steal", 0.0)
        return time.perf_counter(), processes.machine_busy_seconds(), server, time.process_time(), steal

    def cores(self) -> dict[str, float]:
        seconds, busy, server, client, steal = (b - a for a, b in zip(self._before, self._read(), strict=True))
        foreign = busy - server - client
        named = {"server": server, "client": client, "foreign": max(0.0, foreign), "steal": steal}
        return {name: value / seconds for name, value in named.items()}


def wait_until_quiet(limit: float) -> None:
    """Until others use less than ``QUIET`` cores for a second, but at most ``limit`` seconds."""
    end = time.monotonic() + limit
    while limit:
        watch = Watch(None)
        time.sleep(1.0)
        cores = watch.cores()
        if cores["foreign"] + cores["steal"] < QUIET or time.monotonic() > end:
            return


def turn(started: Started, cell: Cell, maker: PromptMaker, *, patience: float, scale: float) -> dict[str, Any]:
    """Run ``cell`` on a contender that is awake; once more where others disturbed it, and the quieter one counts."""
    attempts = []
    for _ in range(2):
        wait_until_quiet(patience)
        attempts.append(_once(started, cell, cell.job(maker, scale)))
        if not attempts[-1]["disturbed"] or not patience:
            break
    return min(attempts, key=lambda attempt: attempt["cores"]["foreign"] + attempt["cores"]["steal"])


def _once(started: Started, cell: Cell, job: Job) -> dict[str, Any]:
    watch = Watch(started.pid)
    streams, late = started.driver.run(job)
    cores = watch.cores()
    result = figures(cell, streams, late)
    disturbed = cores["foreign"] + cores["steal"] >= QUIET
    return result | {"cores": cores, "disturbed": disturbed, "memory": processes.memory(started.pid)}


def figures(cell: Cell, streams: Sequence[Course], late: Sequence[Course]) -> dict[str, Any]:
    """The load generator's figures of the streams, and those that only a comparison has."""
    result = summarize(streams, cell.concurrency)
    answered = [course for course in streams if not course.error]
    if answered:
        begun = max(course.chunks[0] for course in answered)
        prompt = sum(course.prompt_tokens or 0 for course in answered)
        result["prefill_tokens_per_second"] = prompt / (begun - min(course.sent for course in answered))
    if late and answered:
        ended = min(course.chunks[-1] for course in answered)
        inside = (pair for course in answered for pair in itertools.pairwise(course.chunks))
        result["stream_itl_ms"] = spread(b - a for a, b in inside if a >= begun and b <= ended)
        result["late"] = summarize(late, None)
    return result


def warm_up(started: Started, maker: PromptMaker, concurrency: int = 8) -> None:
    """What a first batch makes a contender prepare is no part of any figure."""
    cell = Cell("warm-up", "", (), concurrency, concurrency, prompt=64, output=6)
    started.driver.run(cell.job(maker))
