"""A client that reads a stream with event ids, loses its connection, and comes back with the last id it saw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import tokenizers_for_tests as families
from engine_for_tests import ready_events

from gateway.completion.recording import Reader, Recording
from gateway.completion.stored import Stored
from gateway.completion.streams import Streams
from gateway.protocol.answer import AnswerOptions, Envelope, StreamAnswer
from gateway.protocol.event_ids import EventIds
from gateway.protocol.form import Form

KEY = b"a key"
ENVELOPE = Envelope(id="r", created=1, model="m", system_fingerprint="f")


def form_of(options: AnswerOptions, *, kind: str = "chat.completion.chunk", mode: str = "body") -> Form:
    return Form(mode=mode, kind=kind, envelope=ENVELOPE, options=options)


class SteppedClock:
    """Time goes on when a test says so."""

    def __init__(self) -> None:
        self.time = 100.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        self.time += seconds
        for until, future in self._sleepers:
            if until <= self.time and not future.done():
                future.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


class FakeDurable:
    """A durable journal that commits when a test says so; what is not committed dies with its process."""

    def __init__(self, before: FakeDurable | None = None) -> None:
        self.heads: dict[str, bytes] = dict(before.heads) if before else {}
        self.entries: dict[str, list[bytes]] = {}
        if before is not None:
            self.entries = {key: list(value) for key, value in before.entries.items()}
        self.pending: list[tuple[Callable[[], None], Callable[[], None] | None]] = []
        self.up = True

    def open_request(self, stream_id: str, head: bytes, done: Callable[[], None]) -> None:
        self.pending.append((lambda: self.heads.__setitem__(stream_id, head), done))

    def append(self, stream_id: str, number: int, entry: bytes, done: Callable[[], None]) -> None:
        def write() -> None:
            entries = self.entries.setdefault(stream_id, [])
            assert number == len(entries)
            entries.append(entry)

        self.pending.append((write, done))

    def follow(self, done: Callable[[], None]) -> None:
        self.pending.append((lambda: None, done))

    def forget(self, stream_id: str) -> None:
        def write() -> None:
            self.heads.pop(stream_id, None)
            self.entries.pop(stream_id, None)

        self.pending.append((write, None))

    def commit(self, most: int | None = None) -> None:
        committed = self.pending[:most]
        self.pending = self.pending[len(committed) :]
        for write, _ in committed:
            write()
        for _, done in committed:
            if done is not None:
                done()

    def open(self) -> None:
        pass

    def load(self) -> list[Stored]:
        return [Stored(head, self.entries.get(key, [])) for key, head in self.heads.items()]

    def start(self, snapshot: object) -> None:
        pass

    async def close(self) -> None:
        self.commit()


@dataclass
class Joined:
    """What the events of a stream, or of several connections' parts of it, come to."""

    texts: dict[int, str] = field(default_factory=dict)
    reasoning: dict[int, str] = field(default_factory=dict)
    calls: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    roles: dict[int, int] = field(default_factory=dict)
    token_ids: dict[int, list[int]] = field(default_factory=dict)
    prompts: dict[int, list[int]] = field(default_factory=dict)
    scores: dict[int, list[Any]] = field(default_factory=dict)
    finishes: dict[int, list[Any]] = field(default_factory=dict)
    usages: list[Any] = field(default_factory=list)
    ends: int = 0

    def feed(self, data: str) -> None:
        if data == "[DONE]":
            self.ends += 1
            return
        chunk = json.loads(data)
        assert "error" not in chunk, chunk
        if not chunk["choices"]:
            self.usages.append(chunk["usage"])
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice.get("delta", {})
            text = delta.get("content") or choice.get("text") or ""
            self.texts[index] = self.texts.get(index, "") + text
            self.reasoning[index] = self.reasoning.get(index, "") + (delta.get("reasoning_content") or "")
            for call in delta.get("tool_calls", []):
                made = self.calls.setdefault((index, call["index"]), ["", "", ""])
                made[0] += call.get("id", "")
                made[1] += call["function"].get("name", "")
                made[2] += call["function"].get("arguments", "")
            self.roles[index] = self.roles.get(index, 0) + ("role" in delta)
            self.token_ids.setdefault(index, []).extend(choice.get("token_ids", []))
            if "prompt_token_ids" in choice:
                self.prompts.setdefault(index, []).extend(choice["prompt_token_ids"])
            if (scores := choice["logprobs"]) is not None:
                rows = scores.get("content") or zip(
                    *(scores.get(name, []) for name in ("tokens", "token_logprobs", "text_offset")), strict=True
                )
                self.scores.setdefault(index, []).extend(map(str, rows))
            if choice["finish_reason"] is not None:
                self.finishes.setdefault(index, []).append((choice["finish_reason"], choice.get("stop_reason")))


def events_of(frames: bytes) -> list[tuple[str | None, str]]:
    """(event id, data) of each event."""
    events = []
    for block in frames.decode().split("\n\n"):
        if not block:
            continue
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        in_body = json.loads(data).get("event_id") if data != "[DONE]" else None
        assert in_body is None or "id" not in fields
        events.append((fields.get("id", in_body), data))
    return events


class Client:
    """Of one stream."""

    def __init__(self, streams: Streams, recording: Recording) -> None:
        self.streams, self.joined = streams, Joined()
        self.stream_id, self.key = recording.request.id, recording.head.key
        self.last_id: str | None = None
        self.reader: Reader | None = None
        self.answer: StreamAnswer
        self.done = False

    def connect(self, mode: str | None = None) -> None:
        recording = self.streams.find(self.stream_id, self.key)
        num_choices = recording.request.num_choices
        seen = EventIds.parse(self.last_id, num_choices, "p") if self.last_id is not None else EventIds(num_choices)
        form = Form.decode(recording.head.form)
        form = replace(form, mode=mode or form.mode)
        self.reader = recording.read(seen.num_tokens)
        self.answer = form.answer(recording.request.prompts, families.byte_level(), seen)
        self.unread = events_of(self.answer.opening())

    def fetch(self) -> None:
        """Whatever the server would send now is under way."""
        assert self.reader is not None
        while events := ready_events(self.reader):
            self.unread += events_of(self.answer.feed(events))

    def read(self, most: int | None = None) -> None:
        """Takes events that are under way, at most so many."""
        self.fetch()
        taken = self.unread if most is None else self.unread[:most]
        self.unread = self.unread[len(taken) :]
        for event_id, data in taken:
            self.joined.feed(data)
            self.last_id = event_id or self.last_id
            self.done |= data == "[DONE]"

    def lose(self) -> None:
        """The connection breaks, with what is under way."""
        assert self.reader is not None
        self.reader.cancel()
        self.reader, self.unread = None, []
