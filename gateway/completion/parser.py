"""The text of a chat answer → content, reasoning and tool calls, as the request's formats say.

A pure function of the text, blind to how it is cut: joined, what it gives is the same for any pieces, and what is out
after some text depends on that text alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.completion.events import CallDelta
from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.completion.formats.reader import EnoughError, Reader, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsing:
    """How the text of a request's answers is taken apart: plain values, so that it can be stored with the request."""

    tool_format: str | None = None
    """Name; None where no calls are looked for."""
    reasoning_format: str | None = None
    in_reasoning: bool = False
    """Whether the prompt has begun the reasoning."""
    single_call: bool = False
    """The answer ends with its first call."""
    calls_or_form: bool = False
    """The answer is calls, and begins with them, or of a form that has no calls in it."""
    schemas: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Tool → parameter → its JSON type, for formats that write values without saying what they are."""

    @property
    def markers(self) -> frozenset[str]:
        """Special tokens that must be part of the text, if they are tokens at all."""
        tools, reasoning = tool_formats(), reasoning_formats()
        found: set[str] = set()
        if self.tool_format is not None:
            found.update(tools[self.tool_format].markers)
        if self.reasoning_format is not None:
            found.update(reasoning[self.reasoning_format].markers)
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Parsed:
    """News."""

    content: str
    reasoning: str
    calls: tuple[CallDelta, ...]


class Parser:
    """One choice's. The ids of calls follow from what the choice is, so that a replay gives the same."""

    def __init__(self, parsing: Parsing, *, seed: int, choice: int, prompt: list[int]) -> None:
        self._parsing = parsing
        self._identity = (seed, choice, prompt)
        self._reader = Reader(
            wants_calls=parsing.tool_format is not None, single_call=parsing.single_call, schemas=parsing.schemas
        )
        self._steps: Iterator[None] = self._run(self._reader)
        self._ended = False
        self.complete = False
        """Whether the one call that the request allows is complete."""
        self._advance()

    @property
    def in_reasoning(self) -> bool:
        """Whether what has been read ends within the reasoning."""
        return self._reader.in_reasoning

    @property
    def unread(self) -> int:
        """Characters held back as the possible beginning of a marker; fewer than the longest marker has."""
        return self._reader.unread

    @property
    def has_calls(self) -> bool:
        return self._reader.num_calls > 0

    @property
    def in_call(self) -> bool:
        """Whether what has been read ends within a call, or what may become one.

        Some formats tell a call's end by the end of the text alone.
        """
        return self._reader.in_call or self._reader.in_attempt

    def feed(self, text: str) -> None:
        """The next piece of the text."""
        if text and not self._ended:
            self._reader.feed(text)
            self._advance()

    def finish(self, *, cut: bool = False) -> None:
        """The text ends here: what was held back is decided about. ``cut``: more would have come, see ``Reader``."""
        if not self._ended:
            self._reader.end(cut=cut)
            self._advance()

    def take(self) -> Parsed:
        """What has come of the text since the last time."""
        reader = self._reader
        calls = tuple(self._calls(reader))
        parsed = Parsed("".join(reader.content_parts), "".join(reader.reasoning_parts), calls)
        reader.content_parts.clear()
        reader.reasoning_parts.clear()
        reader.call_parts.clear()
        return parsed

    def _advance(self) -> None:
        try:
            next(self._steps)
        except StopIteration:
            self._ended = True
        except EnoughError:
            self._ended = self.complete = True

    def _run(self, reader: Reader) -> Steps[None]:
        parsing = self._parsing
        if parsing.reasoning_format is not None:
            yield from reasoning_formats()[parsing.reasoning_format].parse(reader, begun=parsing.in_reasoning)
        if parsing.tool_format is not None:
            tools = tool_formats()[parsing.tool_format]
            may_call = not (parsing.calls_or_form and tools.first) or (yield from reader.begins_like(tools.first))
            if may_call:
                yield from tools.parse(reader)
        yield from reader.rest(reader.content)

    def _calls(self, reader: Reader) -> Iterator[CallDelta]:
        """Pieces of one call's arguments that came together are one piece."""
        parts = reader.call_parts
        at = 0
        while at < len(parts):
            first, pieces = parts[at], [parts[at].arguments]
            at += 1
            while at < len(parts) and parts[at].index == first.index:
                pieces.append(parts[at].arguments)
                at += 1
            identity = self._call_id(first.index) if first.name is not None else None
            yield CallDelta(first.index, identity, first.name, "".join(pieces))

    def _call_id(self, index: int) -> str:
        """Unique within a conversation, since every turn of it has another prompt."""
        seed, choice, prompt = self._identity
        digest = hashlib.blake2b(f"{seed} {choice} {index} ".encode(), digest_size=16)
        digest.update(array("Q", prompt).tobytes())
        assert self._parsing.tool_format is not None
        return tool_formats()[self._parsing.tool_format].call_id(digest.hexdigest())
