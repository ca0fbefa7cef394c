"""A request whose answer can be read again from any event: what was emitted, and the one who reads it.

A reader is a cursor. It folds the tokens anew from the first one, so what it yields depends on nothing but the tokens,
and how slowly it is read matters to nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.completion.durable import DurableJournal
from gateway.completion.events import Completed, Delta, Event, PromptScored, Usage
from gateway.completion.fold import Fold
from gateway.completion.journal import Emitted
from gateway.completion.stored import Emission, Ended, Entry, Head, Scored, Stored, encode
from gateway.errors import APIError, TakenOver, Unavailable

AT_ONCE = 512
"""Most tokens that a reader folds before others have their turn of the event loop."""

TOKEN_BYTES, SCORE_BYTES, REQUEST_BYTES = 48, 96, 4096
"""About what a token, a log-probability and a request as such take in memory."""


class Owner(Protocol):
    """Who keeps recordings; ``completion.streams``."""

    def joined(self, recording: Recording) -> None:
        """Somebody reads it."""

    def left(self, recording: Recording) -> None:
        """Nobody reads it any more."""

    def ended(self, recording: Recording) -> None:
        """It has had its terminal output."""


class Choice(Protocol):
    """What is recorded of one."""

    emitted: Emitted
    cached_tokens: int | None
    fingerprint: str


@dataclass(slots=True)
class Track:
    """How far one choice has come on its way to the reader."""

    choice: Choice
    written: int = 0
    """How many of its tokens have been handed to the durable journal."""
    fingerprint: str = ""
    """As the durable journal has it."""
    visible: int = 0
    """How many may be shown: with a durable journal those that it has committed."""
    ended: bool = False
    """Whether the visible ones are all."""


class Recording:
    """Where the lifecycle puts what becomes of the request; made and kept by ``Streams``."""

    def __init__(
        self, head: Head, *, folds: Callable[[], list[Fold]], owner: Owner, journal: DurableJournal | None = None
    ) -> None:
        """``folds``: new ones, for a new reader. With a ``journal`` nothing is shown before it is committed there."""
        self.head = head
        self.request = head.request
        self.reader: Reader | None = None
        self.tracks: list[Track] = []
        self.scored: list[PromptScored] = []
        self.unscored = set(self.request.prompts_to_score)
        """Prompts whose scores are to come; nothing of their choices is read before."""
        self.usage: Usage | None = None
        self.error: APIError | None = None
        self.idle_since = 0.0
        """When its last reader left or it ended, whichever was later."""
        self.num_entries = 0
        """In the durable journal."""
        self.parked = False
        """Whether the durable journal keeps it for the next process."""
        self._folds = folds
        self._owner = owner
        self._journal = journal
        self._saved = asyncio.Event()
        self._cancel: Callable[[], None] = lambda: None

    @property
    def over(self) -> bool:
        """Whether it has had its terminal output."""
        return self.usage is not None or self.error is not None

    @property
    def durable(self) -> bool:
        """Whether it would outlive this process."""
        return self._journal is not None and self._journal.up

    @property
    def size(self) -> int:
        """About the bytes that it takes in memory."""
        logprobs = self.request.params[0].logprobs
        prompt_scores = sum(1 + len(each.top_ids) for event in self.scored for each in event.logprobs)
        output = sum(len(track.choice.emitted.ids) for track in self.tracks)
        scores = prompt_scores + (0 if logprobs is None else output * (1 + logprobs))
        return REQUEST_BYTES + TOKEN_BYTES * (self.request.num_prompt_tokens + output) + SCORE_BYTES * scores

    def reaches(self, num_tokens: Sequence[int]) -> bool:
        """Whether each choice has so many tokens, or may still have."""
        return all(
            not track.ended or count <= len(track.choice.emitted.ids)
            for track, count in zip(self.tracks, num_tokens, strict=True)
        )

    def read(self, seen: Sequence[int]) -> Reader:
        """A new reader, which takes over from one that there is. It yields all events from the first.

        ``seen``: for each choice how many tokens its reader knows of already; one delta ends exactly there.
        """
        if self.reader is not None:
            self.reader.taken_over()
        self.reader = Reader(self, self._folds(), seen)
        self._owner.joined(self)
        return self.reader

    def leave(self, reader: Reader) -> None:
        """For the reader: it is not read any more. A no-op where another has taken over."""
        if self.reader is reader:
            self.reader = None
            self._owner.left(self)

    def cancel(self) -> None:
        """Aborts what is not done yet. Idempotent."""
        self._cancel()

    async def saved(self) -> None:
        """Until the request itself is in the durable journal, if there is one and it can be written."""
        await self._saved.wait()

    # --- for the lifecycle ---------------------------------------------------------------------------------------

    def begin(self, choices: Sequence[Choice], cancel: Callable[[], None]) -> None:
        """It is accepted."""
        self.tracks = [Track(choice, fingerprint=self.head.fingerprint) for choice in choices]
        self._cancel = cancel
        if self._journal is None:
            self._saved.set()
        else:
            self._journal.open_request(self.request.id, encode(self.head), self._saved.set)

    def go_on(self, choices: Sequence[Choice], cancel: Callable[[], None], stored: Stored) -> None:
        """It is what an earlier process has left, in the durable journal and in ``choices``."""
        held = [len(choice.emitted.ids) for choice in choices]
        self.tracks = [
            Track(choice, written, choice.fingerprint, written) for choice, written in zip(choices, held, strict=True)
        ]
        self._cancel = cancel
        for event in stored.scored:
            self._show_scores(event)
        self.num_entries = stored.num_entries
        self._saved.set()
        if stored.usage is not None:
            for track in self.tracks:
                track.ended = True
            self.usage = stored.usage

    def push(self, event: Event) -> None:
        match event:
            case Delta():
                track = self.tracks[event.index]
                entry = self._emission(event.index, track)
                visible, ended = track.written, event.finish_reason is not None
                self._then(entry if entry.ids or entry.finish else None, lambda: self._show(track, visible, ended))
            case PromptScored():
                self._then(Scored(event.prompt_index, event.logprobs), lambda: self._show_scores(event))
            case Completed():
                self._then(Ended(event.usage), lambda: self._end(usage=event.usage))

    def close(self) -> None:
        """``Completed`` has said it."""

    def fail(self, error: APIError) -> None:
        """Where it is the server that goes away, what the durable journal holds is for the next process."""
        if self.durable and isinstance(error, Unavailable):
            self.parked = True
            text = f"{error.message} This stream can be resumed at /v1/streams/{self.request.id} when it is back."
            error = Unavailable(text, retry_after=2, code="stream_parked")
        elif self._journal is not None:
            self._journal.forget(self.request.id)
        self._then(None, lambda: self._end(error=error))

    # --- what becomes visible ------------------------------------------------------------------------------------

    def snapshot(self) -> list[bytes]:
        """All that there is of it, as new entries for a journal that begins anew."""
        entries: list[Entry] = [Scored(event.prompt_index, event.logprobs) for event in self.scored]
        for index, track in enumerate(self.tracks):
            track.written, track.fingerprint = 0, self.head.fingerprint
            entries.append(self._emission(index, track))
        if self.usage is not None:
            entries.append(Ended(self.usage))
        self.num_entries = len(entries)
        return [encode(entry) for entry in entries]

    def _emission(self, index: int, track: Track) -> Emission:
        """What has come since the last one."""
        choice, at = track.choice, track.written
        emitted, track.written = choice.emitted, len(choice.emitted.ids)
        changed = choice.fingerprint if choice.fingerprint != track.fingerprint else ""
        track.fingerprint = choice.fingerprint
        return Emission(index, emitted.ids[at:], emitted.logprobs[at:], emitted.finish, choice.cached_tokens, changed)

    def _then(self, entry: Entry | None, show: Callable[[], None]) -> None:
        """Shows what has happened, in the order in which it did, once the journal has it."""

        def done() -> None:
            show()
            if self.reader is not None:
                self.reader.wake()

        if self._journal is None:
            done()
        elif entry is None:
            self._journal.follow(done)
        else:
            self._journal.append(self.request.id, self.num_entries, encode(entry), done)
            self.num_entries += 1

    def _show_scores(self, event: PromptScored) -> None:
        self.scored.append(event)
        self.unscored.discard(event.prompt_index)

    def _show(self, track: Track, visible: int, ended: bool) -> None:
        track.visible, track.ended = visible, ended

    def _end(self, usage: Usage | None = None, error: APIError | None = None) -> None:
        self.usage, self.error = usage, error
        self._owner.ended(self)


class Reader:
    """An async iterator of ``list[Event]``, as ``Stream`` is one."""

    def __init__(self, recording: Recording, folds: list[Fold], seen: Sequence[int]) -> None:
        self._recording = recording
        self._folds = folds
        self._seen = seen
        self._cursors = [0] * len(folds)
        self._scored = 0
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._at_end = False
        """Whether only the end itself is left, after ``_events``."""
        self._taken_over = False

    def cancel(self) -> None:
        """Nobody reads any more; the request goes on for the grace time. Idempotent."""
        self._recording.leave(self)

    def taken_over(self) -> None:
        self._taken_over = True
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> list[Event]:
        await self.ready()
        if self._taken_over:
            raise TakenOver("Another reader has taken this stream over.")
        if self._events:
            events, self._events = self._events, []
            return events
        if self._recording.error is not None:
            raise self._recording.error
        raise StopAsyncIteration

    async def ready(self) -> None:
        """Waits until the next read returns or raises at once. May be cancelled without a loss."""
        while not self._taken_over:
            more = self._take()
            if self._events or self._at_end:
                return
            if more:
                await asyncio.sleep(0)
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def _take(self) -> bool:
        """Folds some of what is there; whether some is left, for the next turn of the event loop."""
        recording = self._recording
        self._events += recording.scored[self._scored :]
        self._scored = len(recording.scored)
        room = AT_ONCE
        for index, track in enumerate(recording.tracks):
            if index // recording.request.n in recording.unscored:
                continue
            room = self._take_choice(index, track, room)
            if room <= 0:
                return True
        if recording.usage is not None and not self._at_end:
            self._events.append(Completed(recording.usage))
        self._at_end = recording.over
        return False

    def _take_choice(self, index: int, track: Track, room: int) -> int:
        """Folds at most ``room`` tokens of one choice; returns how much room they leave."""
        fold, emitted = self._folds[index], track.choice.emitted
        while fold.finish_reason is None and room > 0:
            at = self._cursors[index]
            until = min(track.visible, at + room)
            if at < self._seen[index] < until:
                until = self._seen[index]
            last = track.ended and until == len(emitted.ids)
            if at == until and not (last and emitted.finish):
                break
            finish = emitted.finish if last else None
            delta = fold.feed(emitted.ids[at:until], emitted.logprobs[at:until], finish)
            self._cursors[index] = until
            room -= until - at
            if delta is not None:
                self._events.append(delta)
        return room
