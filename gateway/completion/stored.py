"""What a durable journal holds of a request, as structs that are written in msgpack.

A request's head is written once. What becomes of it follows in entries, numbered from 0 without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from engine.messages import EngineFinish, TokenLogprobs
from gateway.completion.events import PromptScored, Usage
from gateway.completion.journal import Emitted
from gateway.completion.request import Request


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to generate and to render the answer."""

    request: Request
    key: bytes
    """Hash of the API key that it belongs to."""
    form: bytes
    eos_ids: list[int]
    fingerprint: str
    """Of the numerics that it was begun with."""
    model: str
    """Which model and tokenizer; another one cannot go on with it."""


class Emission(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """Output tokens of one choice, after those of its entries before."""

    choice: int
    ids: list[int]
    logprobs: list[TokenLogprobs] = []
    finish: EngineFinish | None = None
    cached_tokens: int | None = None
    """Of its prompt, once known."""
    fingerprint: str = ""
    """Of the numerics that these were computed with, where it is not that of those before."""


class Scored(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    prompt_index: int
    logprobs: list[TokenLogprobs]


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """The request is complete."""

    usage: Usage


Entry: TypeAlias = Emission | Scored | Ended

encode = msgspec.msgpack.Encoder().encode
_head = msgspec.msgpack.Decoder(Head)
_entry = msgspec.msgpack.Decoder(Entry)


@dataclass(slots=True)
class Held:
    """One choice as far as it was written."""

    emitted: Emitted = field(default_factory=Emitted)
    cached_tokens: int | None = None
    fingerprint: str = ""
    """Of the numerics that it was last computed with."""


class Stored:
    """A request as a journal gives it back. Raises ``msgspec.DecodeError`` where it cannot be read."""

    def __init__(self, head: bytes, entries: list[bytes]) -> None:
        self.head: Head = _head.decode(head)
        self.choices = [Held(fingerprint=self.head.fingerprint) for _ in range(self.head.request.num_choices)]
        self.scored: list[PromptScored] = []
        self.usage: Usage | None = None
        self.num_entries = len(entries)
        for entry in entries:
            self._take(_entry.decode(entry))

    def _take(self, entry: Entry) -> None:
        match entry:
            case Emission():
                held = self.choices[entry.choice]
                held.emitted.ids += entry.ids
                held.emitted.logprobs += entry.logprobs
                held.emitted.finish = entry.finish
                held.fingerprint = entry.fingerprint or held.fingerprint
                if held.cached_tokens is None:
                    held.cached_tokens = entry.cached_tokens
            case Scored():
                self.scored.append(PromptScored(entry.prompt_index, entry.logprobs))
            case Ended():
                self.usage = entry.usage
