"""The durable journal: an SQLite file, written by one thread that commits together whatever has come meanwhile.

Write-ahead logging without a sync for each commit: what was committed outlives the death of this process at any moment.
A loss of power may take the last commits with it, never the file's integrity.

Where a write fails (a full disk), the journal is *down*: nothing waits for it, what comes is dropped, and every few
seconds it is tried to write anew all that is live. Streams never wait for a journal that is down.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec

from gateway.completion.stored import Stored
from observability.records import JournalCommit, JournalState, Record

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x50454E53
VERSION = 1
RETRY = 5.0
"""Seconds between attempts to write again after a failure."""

_SCHEMA = """
CREATE TABLE requests (id TEXT PRIMARY KEY, head BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (request TEXT, number INTEGER, entry BLOB NOT NULL, PRIMARY KEY (request, number)) WITHOUT ROWID;
"""
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "": (),
    "open": ("INSERT INTO requests VALUES (?, ?)",),
    "append": ("INSERT INTO entries VALUES (?, ?, ?)",),
    "forget": ("DELETE FROM requests WHERE id = ?", "DELETE FROM entries WHERE request = ?"),
    "clear": ("DELETE FROM requests WHERE ? IS NULL", "DELETE FROM entries WHERE ? IS NULL"),
}
"""What is one write is never half done."""

Snapshot = Iterable[tuple[str, bytes, list[bytes]]]
"""(id, head, entries) of every request that is live."""


class JournalError(Exception):
    """A journal that cannot be used; readable by the person at the terminal."""


class JournalInUseError(JournalError):
    """Another process has it."""


class _Write(msgspec.Struct, frozen=True):
    statement: str
    """Empty: nothing is written, but what was said before is."""
    values: tuple[object, ...] = ()
    done: Callable[[], None] | None = None


class DurableJournal:
    """``open``, ``load``, ``start``, then everything else from the event loop, and ``close``.

    Callbacks are called in the order of the writes, when each is committed, or will not be because the journal is
    down. Before ``start`` it is down as well.
    """

    def __init__(self, path: Path, *, record: Callable[[Record], None] = lambda _: None) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._record = record
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._snapshot: Callable[[], Snapshot] = lambda: ()
        self._retry: asyncio.TimerHandle | None = None
        self._broken = False
        """The thread's: since a write failed, only a new beginning is written."""
        self._under_way = 0
        self._unreadable: list[str] = []
        """Requests that ``load`` has found."""
        self.up = False
        """Whether what is said is written."""

    def open(self) -> None:
        """Makes the file where there is none, and keeps every other process out.

        Raises:
            JournalInUseError: another process has it open.
            JournalError: it cannot be used.
        """
        path = self.path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # it holds prompts
            connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"the journal {path} cannot be opened: {_reason(error)}") from None
        try:
            _prepare(path, connection)
        except BaseException as error:
            connection.close()
            if not isinstance(error, sqlite3.Error):
                raise
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise JournalInUseError(f"the journal {path} is in use by another server") from None
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
                raise JournalError(f"{path} is not a journal of Penstock; it was left as it is") from None
            raise JournalError(f"the journal {path} cannot be used: {_reason(error)}") from None
        self._connection = connection

    def load(self) -> list[Stored]:
        """The requests that an earlier process left, in no order.

        What cannot be read is logged, and deleted by ``start``. Raises ``JournalError`` where the file itself cannot
        be read.
        """
        entries: dict[str, list[bytes]] = {}
        try:
            for request, number, entry in self._opened.execute("SELECT * FROM entries ORDER BY request, number"):
                known = entries.setdefault(request, [])
                if number == len(known):
                    known.append(entry)
            heads = self._opened.execute("SELECT * FROM requests").fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path} cannot be read: {_reason(error)}") from None
        found = []
        for stream_id, head in heads:
            try:
                found.append(Stored(head, entries.get(stream_id, [])))
            except (msgspec.DecodeError, IndexError) as error:
                logger.warning("%s: the stream %s cannot be read and is deleted: %s", self.path, stream_id, error)
                self._unreadable.append(stream_id)
        return found

    def start(self, snapshot: Callable[[], Snapshot]) -> None:
        """What is said from now on is written, and what is live already.

        ``snapshot`` gives that, now and whenever it is to be written anew after a failure.
        """
        self._loop = asyncio.get_running_loop()
        self._snapshot = snapshot
        self._record(JournalState(failed=0))
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()
        self.up = True
        for stream_id in self._unreadable:
            self.forget(stream_id)
        self._write_live()

    async def close(self) -> None:
        """Writes what was said, and lets other processes in. Idempotent."""
        if self._retry is not None:
            self._retry.cancel()
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        self.up = False
        if self._connection is not None:
            self._connection.close()

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    # --- what is to be written ---------------------------------------------------------------------------------

    def open_request(self, stream_id: str, head: bytes, done: Callable[[], None]) -> None:
        self._say("open", (stream_id, head), done)

    def append(self, stream_id: str, number: int, entry: bytes, done: Callable[[], None]) -> None:
        """``number`` counts the request's entries, from 0."""
        self._say("append", (stream_id, number, entry), done)

    def follow(self, done: Callable[[], None]) -> None:
        """Nothing to write: ``done`` is called in its turn."""
        self._say("", (), done)

    def forget(self, stream_id: str) -> None:
        self._say("forget", (stream_id,))

    def _say(self, statement: str, values: tuple[object, ...], done: Callable[[], None] | None = None) -> None:
        # Also while it is down, as long as callbacks of earlier writes are to come: they keep their order.
        if self._thread is not None and (self.up or self._under_way):
            self._under_way += 1
            self._queue.put(_Write(statement, values, done))
        elif done is not None:
            done()

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._loop is not None
        while True:
            batch: list[_Write] = []
            write = self._queue.get()
            try:
                while write is not None:
                    batch.append(write)
                    write = self._queue.get_nowait()
            except Empty:
                pass
            began = time.monotonic()
            error = self._commit(batch)
            self._loop.call_soon_threadsafe(self._written, batch, error, time.monotonic() - began)
            if write is None:
                return

    def _commit(self, batch: list[_Write]) -> sqlite3.Error | None:
        """One transaction. Returns why nothing was written, if so."""
        if any(write.statement == "clear" for write in batch):
            self._broken = False
        if self._broken:
            return sqlite3.OperationalError("an earlier write failed")
        connection = self._opened
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement, writes in groupby(batch, lambda write: write.statement):
                    values = [write.values for write in writes]
                    for each in _STATEMENTS[statement]:
                        connection.executemany(each, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self._broken = True
            return error
        return None

    def _written(self, batch: list[_Write], error: sqlite3.Error | None, duration: float) -> None:
        """In the event loop."""
        self._under_way -= len(batch)
        if error is None:
            entries = sum(write.statement == "append" for write in batch)
            self._record(JournalCommit(duration=duration, entries=entries))
            if any(write.statement == "clear" for write in batch):
                logger.warning("the journal %s is written again", self.path)
                self._record(JournalState(failed=0))
        elif self.up:
            self._go_down(error)
        for write in batch:
            if write.done is not None:
                write.done()

    # --- when a write fails ------------------------------------------------------------------------------------

    def _go_down(self, error: sqlite3.Error) -> None:
        assert self._loop is not None
        self.up = False
        logger.error(
            "the journal %s cannot be written (%s): streams go on, but until it can they would not outlive this server",
            self.path,
            _reason(error),
        )
        self._record(JournalState(failed=1))
        self._retry = self._loop.call_later(RETRY, self._begin_anew)

    def _begin_anew(self) -> None:
        """Instead of what the file has: all that is live."""
        self.up = True
        self._say("clear", (None,))
        self._write_live()

    def _write_live(self) -> None:
        for stream_id, head, entries in self._snapshot():
            self._say("open", (stream_id, head))
            for number, entry in enumerate(entries):
                self._say("append", (stream_id, number, entry))


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Raises ``JournalError`` or ``sqlite3.Error``, before anything of another kind is touched."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    if application != APPLICATION_ID and (application or tables):
        raise JournalError(f"{path} is not a journal of Penstock; it was left as it is")
    if tables and version != VERSION:
        raise JournalError(f"the journal {path} is of format {version}, and this release writes format {VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN EXCLUSIVE")
    if not tables:
        for statement in _SCHEMA.split(";")[:-1]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    with suppress(sqlite3.OperationalError):  # where the disk is full they stay
        connection.execute("DELETE FROM entries WHERE request NOT IN (SELECT id FROM requests)")


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
