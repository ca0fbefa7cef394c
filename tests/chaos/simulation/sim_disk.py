"""The durable journal on a simulated disk: what was committed survives its gateway process, and nothing else does.

The production ``DurableJournal`` runs on an SQLite database in memory, which outlives the gateway. Its thread is a
greenlet: it commits a while after it was told to, all that has come by then, and stops for good where its process is
killed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet
from sim_event_loop import GatewayLoop
from sim_kernel import Kernel

from gateway.completion import durable
from gateway.completion.durable import DurableJournal, Snapshot
from observability.records import JournalState, Record


class Disk:
    def __init__(self, kernel: Kernel) -> None:
        self.random = kernel.stream("disk")
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.full = False
        """Whether what is written does not fit any more."""

    @property
    def streams(self) -> list[str]:
        return [name for (name,) in self.connection.execute("SELECT id FROM requests ORDER BY id")]


class _Writer:
    """Stands for the journal's thread and for the queue that it reads."""

    def __init__(self, kernel: Kernel, loop: GatewayLoop, disk: Disk) -> None:
        self._kernel, self._loop, self._disk = kernel, loop, disk
        self._queue: deque[object] = deque()
        self._waiting = False
        self._greenlet: greenlet | None = None
        self.ended = asyncio.Event()

    def run(self, work: object) -> None:
        def main() -> None:
            work()  # type: ignore[operator]
            self.ended.set()

        self._greenlet = greenlet(main)
        self._greenlet.switch()

    def put(self, write: object) -> None:
        self._queue.append(write)
        if self._waiting:
            self._waiting = False
            self._kernel.after(self._disk.random.choice([0.0001, 0.001, 0.03]), self._go_on)

    def get(self) -> object:
        while not self._queue:
            self._waiting = True
            getcurrent().parent.switch()
        return self._queue.popleft()

    def get_nowait(self) -> object:
        if not self._queue:
            raise durable.Empty
        return self._queue.popleft()

    def _go_on(self) -> None:
        if not self._loop.dead and self._greenlet is not None and not self._greenlet.dead:
            self._greenlet.switch()

    def dissolve(self) -> None:
        if self._greenlet is not None and not self._greenlet.dead:
            with suppress(GreenletExit):
                self._greenlet.throw(GreenletExit)


class SimJournal(DurableJournal):
    def __init__(self, kernel: Kernel, loop: GatewayLoop, disk: Disk) -> None:
        super().__init__(Path("simulated"), record=self._take_record)
        self._disk = disk
        self.writer = _Writer(kernel, loop, disk)
        self._queue = self.writer  # type: ignore[assignment]
        self.failures = 0

    def _take_record(self, record: Record) -> None:
        if isinstance(record, JournalState):
            self.failures += record.failed

    def open(self) -> None:
        durable._prepare(self.path, self._disk.connection)
        self._connection = self._disk.connection

    def start(self, snapshot: Snapshot) -> None:
        self._loop = asyncio.get_running_loop()
        self._snapshot = snapshot
        self._record(JournalState(failed=0))
        self._thread = self.writer  # type: ignore[assignment]
        self.writer.run(self._run)
        self.up = True
        self._write_live()

    def _commit(self, batch: list[Any]) -> sqlite3.Error | None:
        if self._disk.full:
            self._broken = True
            return sqlite3.OperationalError("database or disk is full")
        return super()._commit(batch)

    async def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._thread is not None:
            self.writer.put(None)
            await self.writer.ended.wait()
            self._thread = None
        self.up = False
