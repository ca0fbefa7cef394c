"""The requests that may be resumed: whose they are, how long they wait for a reader, and how much is kept of them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from engine.messages import EngineInfo
from gateway.clock import Clock, SystemClock
from gateway.completion.durable import DurableJournal, JournalError, JournalInUseError, Snapshot
from gateway.completion.fold import Fold, folds_of
from gateway.completion.recording import Recording
from gateway.completion.request import Request
from gateway.completion.stored import Head, Stored, encode
from gateway.errors import Gone, NotFound, Unavailable
from gateway.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Streams that are gone and whose readers are told so."""


HANDOVER_INTERVAL = 0.1
"""Seconds between looks at a journal that another process still has."""


class Submits(Protocol):
    """What is needed of ``lifecycle``."""

    @property
    def info(self) -> EngineInfo | None: ...

    def submit_recorded(self, recording: Recording) -> None: ...

    def restore(self, recording: Recording, stored: Stored) -> None: ...


class Streams:
    """From the event loop alone.

    A request that nobody reads goes on for the grace time and is then aborted; an answer that is complete is kept for
    as long. Whether somebody reads it is looked at in the same turn of the event loop in which it ends.
    """

    def __init__(
        self,
        lifecycle: Submits,
        tokenizer: Tokenizer,
        *,
        grace: float = 60.0,
        capacity: int = 2**28,
        clock: Clock | None = None,
        journal: DurableJournal | None = None,
        model: str = "",
        enter: Callable[[Request], Callable[[], None]] = lambda _: lambda: None,
    ) -> None:
        """``grace`` in seconds.

        ``capacity``: bytes, by estimate, of complete answers that nobody reads. The one that has waited longest goes
        first.

        ``journal`` is one that has been opened. ``model`` says which model and tokenizer serve: what another one has
        left in the journal cannot be gone on with. ``enter`` gives a place among the requests that are inside, to what
        goes on here and to a complete answer that is read again; what it returns gives the place back.
        """
        self._lifecycle = lifecycle
        self._tokenizer = tokenizer
        self._grace = grace
        self._capacity = capacity
        self._clock = clock or SystemClock()
        self._journal = journal
        self._model = model
        self._enter = enter
        self._taking_over: asyncio.Task[None] | None = None
        self._recordings: dict[str, Recording] = {}
        self._unread: list[Recording] = []
        """Of an earlier process, before ``ready``."""
        self._places: dict[Recording, Callable[[], None]] = {}
        """What gives back the place of each that is being generated or read: who asks and then does not read what came
        of it keeps no more answers here than the requests that a key may have."""
        self._waits: dict[str, asyncio.Task[None]] = {}
        self._kept: OrderedDict[str, int] = OrderedDict()
        """Complete answers that nobody reads, each with its size."""
        self._kept_bytes = 0
        self._gone: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        """Id → the key that it belonged to, and why it is gone."""

    def __len__(self) -> int:
        return len(self._recordings)

    def submit(self, request: Request, *, key: bytes, form: bytes, on_end: Callable[[], None]) -> Recording:
        """Has a request generated and recorded. ``on_end`` is called when it is complete and nobody reads it any more.

        Raises ``Unavailable``.
        """
        info = self._lifecycle.info
        if info is None:
            raise Unavailable("The engine is starting; try again shortly.", retry_after=2)
        head = Head(
            request=request,
            key=key,
            form=form,
            eos_ids=info.eos_token_ids,
            fingerprint=info.fingerprint,
            model=self._model,
        )
        recording = self._recording(head)
        self._places[recording] = on_end
        try:
            self._lifecycle.submit_recorded(recording)
        except BaseException:
            del self._recordings[request.id]
            self._places.pop(recording, None)
            raise
        return recording

    def _recording(self, head: Head) -> Recording:
        request, eos_ids = head.request, head.eos_ids

        def folds() -> list[Fold]:
            return folds_of(request, self._tokenizer, eos_ids)

        recording = Recording(head, folds=folds, owner=self, journal=self._journal)
        self._recordings[request.id] = recording
        return recording

    def open_journal(self) -> None:
        """Goes on with what an earlier process has left in the journal, and writes to it from now on.

        Until ``ready``, streams of that process wait for their readers for as long as it takes. Raises
        ``JournalError``.
        """
        if self._journal is not None:
            self._journal.open()
            self._go_on(self._journal, self._journal.load())

    def follow(self) -> None:
        """The same, as soon as a process that is about to end lets go of the journal.

        Until then nothing here is durable, and whoever asks for a stream that is not known here is told to ask again.
        """
        if self._journal is not None:
            self._taking_over = asyncio.create_task(self._take_over(self._journal), name="taking the journal over")

    async def _take_over(self, journal: DurableJournal) -> None:
        try:
            while True:
                with suppress(JournalInUseError):
                    journal.open()
                    break
                await self._clock.sleep(HANDOVER_INTERVAL)
            self._go_on(journal, await asyncio.to_thread(journal.load))
            self.ready()
        except JournalError as error:
            logger.error("%s; streams go on, and would not outlive this server", error)
        except Exception:
            logger.exception("not all streams of the journal %s could be gone on with", journal.path)
            self.ready()
        finally:
            self._taking_over = None

    def _go_on(self, journal: DurableJournal, found: list[Stored]) -> None:
        journal.start(self._snapshot)
        for stored in found:
            self._restore(stored)
        if self._unread:
            logger.info("%d streams of an earlier process wait for their readers", len(self._unread))

    def _restore(self, stored: Stored) -> None:
        if stored.head.model != self._model:
            logger.warning("stream %s was begun with another model and is dropped", stored.head.request.id)
            self._forget(stored.head.request.id, stored.head.key, "another model serves now")
            return
        if stored.usage is None:
            recording = self._recording(stored.head)
            self._places[recording] = self._enter(stored.head.request)
            self._lifecycle.restore(recording, stored)
        else:
            recording = self._recording(stored.head)
            recording.go_on(stored.choices, lambda: None, stored)
        self._unread.append(recording)

    async def take_back(self) -> None:
        """What was left to a process that did not come goes on here after all."""
        parked = [recording for recording in self._recordings.values() if recording.parked]
        if self._journal is None or not parked:
            return
        written = asyncio.Event()
        self._journal.follow(written.set)
        await written.wait()
        try:
            found = self._journal.load()
        except JournalError as error:
            logger.error("%s; streams that have ended here cannot be gone on with", error)
            return
        for recording in parked:
            self._drop(recording)
        ids = {recording.request.id for recording in parked}
        for stored in found:
            if stored.head.request.id in ids:
                self._restore(stored)
        self.ready()

    def ready(self) -> None:
        """Readers can come: the grace time of what an earlier process has left begins."""
        unread, self._unread = self._unread, []
        for recording in unread:
            self._idle(recording)

    def find(self, stream_id: str, key: bytes) -> Recording:
        """The recording of that id, if it belongs to ``key``.

        Raises:
            NotFound: there is none, and never was one for this key.
            Gone: there was.
            Unavailable: it may be with a process that is about to end.
        """
        recording = self._recordings.get(stream_id)
        if recording is not None and recording.head.key == key:
            return recording
        if (gone := self._gone.get(stream_id)) is not None and gone[0] == key:
            raise Gone(f"The stream '{stream_id}' can no longer be resumed: {gone[1]}. Send the request again.")
        if self._taking_over is not None:
            raise Unavailable("The server is being replaced; try again shortly.", retry_after=1)
        raise NotFound(f"There is no stream '{stream_id[:64]}'.", code="stream_not_found")

    def abandon(self, recording: Recording) -> None:
        """Nobody has learned of it, or wants it any more: aborts what is not done, and forgets it."""
        recording.parked = False
        self._drop(recording, "its client has ended it")

    def _drop(self, recording: Recording, why: str | None = None) -> None:
        stream_id = recording.request.id
        if self._recordings.get(stream_id) is not recording:
            return
        del self._recordings[stream_id]
        recording.cancel()
        self._unkeep(recording)
        wait = self._waits.pop(stream_id, None)
        if wait is not None and wait is not asyncio.current_task():
            wait.cancel()
        if not recording.parked:
            why = why or f"nobody read it for {self._grace:g} s, or its room was needed"
            self._forget(stream_id, recording.head.key, why)

    def _forget(self, stream_id: str, key: bytes, why: str) -> None:
        if self._journal is not None:
            self._journal.forget(stream_id)
        self._gone[stream_id] = key, why
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    def _snapshot(self) -> Snapshot:
        for stream_id, recording in self._recordings.items():
            if recording.error is None or recording.parked:
                yield stream_id, encode(recording.head), recording.snapshot()

    async def close(self) -> None:
        """Ends all waits, and writes what is still to be written. The lifecycle has been closed before."""
        waits = list(self._waits.values())
        if self._taking_over is not None:
            waits.append(self._taking_over)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        if self._journal is not None:
            await self._journal.close()

    # --- what recordings report --------------------------------------------------------------------------------

    def joined(self, recording: Recording) -> None:
        self._unkeep(recording)
        if recording not in self._places:
            self._places[recording] = self._enter(recording.request)

    def left(self, recording: Recording) -> None:
        self._give_back(recording)
        self._idle(recording)

    def ended(self, recording: Recording) -> None:
        self._give_back(recording)
        self._idle(recording)

    def _give_back(self, recording: Recording) -> None:
        if recording.over and recording.reader is None and recording in self._places:
            self._places.pop(recording)()

    # --- the grace time ----------------------------------------------------------------------------------------

    def _idle(self, recording: Recording) -> None:
        stream_id = recording.request.id
        if self._recordings.get(stream_id) is not recording:  # dropped, and maybe restored as another
            return
        if recording.reader is not None or recording in self._unread:
            return
        recording.idle_since = self._clock.now()
        if stream_id not in self._waits:
            self._waits[stream_id] = asyncio.create_task(self._wait_out(recording), name=f"grace of {stream_id}")
        if recording.over:
            self._keep(recording)

    async def _wait_out(self, recording: Recording) -> None:
        """Until somebody reads it, or the grace time is over."""
        task = asyncio.current_task()
        try:
            while recording.reader is None:
                left = recording.idle_since + self._grace - self._clock.now()
                if left <= 0:
                    self._drop(recording)
                    return
                await self._clock.sleep(left)
        finally:
            if self._waits.get(recording.request.id) is task:
                del self._waits[recording.request.id]

    # --- the room ----------------------------------------------------------------------------------------------

    def _keep(self, recording: Recording) -> None:
        self._unkeep(recording)
        size = self._kept[recording.request.id] = recording.size
        self._kept_bytes += size
        while self._kept_bytes > self._capacity:
            self._drop(self._recordings[next(iter(self._kept))])

    def _unkeep(self, recording: Recording) -> None:
        self._kept_bytes -= self._kept.pop(recording.request.id, 0)
