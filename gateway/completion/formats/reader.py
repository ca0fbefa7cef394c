"""The text of one choice as formats read it: in pieces, each character once, whatever the pieces are.

A format is a generator over a ``Reader``. It reads until the text runs out, yields, and goes on when there is more, so
that its state is the place it stands at. What it makes of the text goes into sinks: content, reasoning and calls.

Two rules make the result a function of the text read so far, blind to how it was cut: nothing is decided by where a
piece ends, and what may still become a marker is held back.

White space next to markup belongs to the markup: it is held back until what follows it is known, and dropped where
that is a marker, or where it stands between markup and the beginning or the end of what a sink takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from gateway.completion.formats.markers import Markers

Value = TypeVar("Value")
Steps: TypeAlias = Generator[None, None, Value]
"""A part of a parser: yields wherever it needs more text, and returns a value."""

WHITE = " \t\r\n"
_WORD = re.compile(r"[\w.-]*")


def _end_of_word(text: str, at: int) -> int:
    found = _WORD.match(text, at)
    return at if found is None else found.end()


class EnoughError(Exception):
    """The one call that the request allows is complete; nothing after it is read."""


@dataclass(slots=True)
class CallPart:
    """News of a call: its name, or a piece of its arguments."""

    index: int
    name: str | None = None
    arguments: str = ""


class Sink:
    """Where text goes."""

    __slots__ = ("begun", "write")

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.begun = False
        """Whether anything has been written."""


class Reader:
    """Text comes in by ``feed`` and ``end``; a format reads it with the methods below them."""

    def __init__(
        self,
        *,
        wants_calls: bool = True,
        single_call: bool = False,
        schemas: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """``single_call``: reading ends with the first call. ``schemas``: tool → parameter → its JSON type."""
        self.wants_calls = wants_calls
        self.schemas = schemas or {}
        self.content_parts: list[str] = []
        self.reasoning_parts: list[str] = []
        self.call_parts: list[CallPart] = []
        self.content = Sink(self.content_parts.append)
        self.reasoning = Sink(self.reasoning_parts.append)
        self.arguments = Sink(self.argue)
        self.arguments.begun = True
        self.in_reasoning = False
        self.num_calls = 0
        self.in_call = False
        """Whether the last call has not been completed."""
        self._single_call = single_call
        self._text = ""
        self._at = 0
        self._ended = False
        self._awaited: tuple[str, ...] = ()
        """Markers of which what is unread may be the beginning."""
        self._space: list[str] = []
        """White space that has been read and that nobody has decided about."""
        self._after_markup = False
        """Whether nothing but white space was read since the last markup."""
        self._raw: list[str] | None = None
        """All that was read of what may turn out to be no call."""

    def feed(self, text: str) -> None:
        """More text. What is left of the text before is shorter than a marker."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self, *, cut: bool = False) -> None:
        """No more text comes. ``cut``: more would have come.

        Then what may be the beginning of a call is dropped, where it would be content otherwise. So is the beginning of
        a marker, if it follows markup or is more than half of it; less than that is as likely to be text.
        """
        self._ended = True
        if cut:
            rest = self._text[self._at :]
            distinct = any(2 * len(rest) > len(marker) and marker.startswith(rest) for marker in self._awaited)
            if self._raw is not None or self._after_markup or distinct:
                self._at = len(self._text)
            if self._raw is not None:
                self._raw = []

    @property
    def in_attempt(self) -> bool:
        """Whether what has been read ends within what may become a call."""
        return self._raw is not None and any(self._raw)

    @property
    def unread(self) -> int:
        """Characters of the text at hand that have not been read."""
        return len(self._text) - self._at

    # --- text up to a marker ---------------------------------------------------------------------------------

    def until(self, markers: Markers, sink: Sink) -> Steps[str]:
        """Pass text on to ``sink`` up to the first marker, which is read and returned; empty at the end."""
        while True:
            found = markers.search(self._text, self._at)
            if found is not None:
                self._pass_on(found.start(), sink)
                if self._after_markup and not sink.begun:
                    self._space.clear()
                self._at = found.end()
                self._after_markup = True
                return found.group()
            if self._ended:
                self._pass_on(len(self._text), sink)
                if not self._after_markup:
                    self._write(sink, "".join(self._space))
                self._space.clear()
                return ""
            self._pass_on(len(self._text) - markers.held(self._text, self._at), sink)
            self._awaited = markers.texts
            yield

    def verbatim(
        self,
        markers: Markers,
        write: Callable[[str], None],
        *,
        without_line_breaks: bool = False,
        at_most: int | None = None,
    ) -> Steps[str]:
        """The same with all white space; or without a line break at the beginning, and one before the marker.

        ``at_most``: after more characters than these, reading ends as it does at the end of the text.
        """
        if without_line_breaks and (yield from self.peek()) == "\n":
            self.skip()
        held = ""
        while True:
            found = markers.search(self._text, self._at)
            until = found.start() if found else len(self._text)
            if not found and not self._ended:
                until -= markers.held(self._text, self._at)
            if at_most is not None:
                until = min(until, self._at + at_most + 1)
                at_most -= until - self._at
            piece = held + self.skip(until - self._at)
            held = "\n" if without_line_breaks and piece.endswith("\n") else ""
            write(piece.removesuffix(held))
            if at_most is not None and at_most < 0:
                return ""
            if found is not None:
                return self.skip(len(found.group()))
            if self._ended:
                write(held)
                return ""
            self._awaited = markers.texts
            yield

    def rest(self, sink: Sink) -> Steps[None]:
        """Pass on everything to the end."""
        yield from self.until(Markers(), sink)

    def _pass_on(self, until: int, sink: Sink) -> None:
        piece, self._at = self._text[self._at : until], until
        kept = piece.rstrip(WHITE)
        if not kept:
            if piece:
                self._space.append(piece)
            return
        if self._after_markup and not sink.begun:
            self._write(sink, kept.lstrip(WHITE))
        else:
            self._write(sink, "".join(self._space) + kept)
        self._space.clear()
        self._after_markup = False
        if len(kept) < len(piece):
            self._space.append(piece[len(kept) :])

    def _write(self, sink: Sink, text: str) -> None:
        if text:
            sink.begun = True
            sink.write(text)

    # --- characters ------------------------------------------------------------------------------------------

    def peek(self) -> Steps[str]:
        """The next character, unread; empty at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def skip(self, count: int = 1) -> str:
        """Read characters that have been peeked at."""
        taken = self._text[self._at : self._at + count]
        self._at += count
        if self._raw is not None:
            self._raw.append(taken)
        return taken

    def take(self, scan: Callable[[str, int], int]) -> Steps[str]:
        """Read what ``scan`` takes of the text at hand: given text and offset, it returns the offset that it ends at.

        Empty at the end.
        """
        if not (yield from self.peek()):
            return ""
        return self.skip(scan(self._text, self._at) - self._at)

    def word(self) -> Steps[str]:
        """Read letters, digits and ``_ . -``, as many as come; empty where none does."""
        parts = []
        while part := (yield from self.take(_end_of_word)):
            parts.append(part)
        return "".join(parts)

    def skip_space(self) -> Steps[str]:
        """Read white space within markup; the character after it, unread, or nothing at the end."""
        while True:
            character = yield from self.peek()
            if not character or character not in WHITE:
                return character
            self.skip()

    def hold_space(self) -> Steps[str]:
        """Read white space that may be markup or text; the character after it, unread, or nothing at the end."""
        while True:
            character = yield from self.peek()
            if not character or character not in WHITE:
                return character
            self._space.append(self.skip())

    def begins_like(self, characters: str) -> Steps[bool]:
        """Whether what comes next, after white space, is one of these; nothing but the white space is read."""
        following = yield from self.hold_space()
        return bool(following) and following in characters

    def drop_space(self) -> None:
        """White space that is held back belongs to the markup that was read after it."""
        self._space.clear()

    def literal(self, *texts: str) -> Steps[str]:
        """Read one of ``texts``, if it comes next; which one, or nothing. None may begin with another."""
        while True:
            rest = self._text[self._at : self._at + max(map(len, texts))]
            for text in texts:
                if rest.startswith(text):
                    return self.skip(len(text))
            if self._ended or not any(text.startswith(rest) for text in texts):
                return ""
            self._awaited = texts
            yield

    def begins_with(self, *texts: str) -> Steps[str]:
        """The same for markup, with white space before it."""
        yield from self.hold_space()
        found = yield from self.literal(*texts)
        if found:
            self._space.clear()
            self._after_markup = True
        return found

    def reasoned(self, begin: str, end: Markers, *, begun: bool) -> Steps[None]:
        """Read reasoning between markers where the text begins with it, or to its end where the prompt has begun it."""
        self.in_reasoning = self._after_markup = begun
        # Some models repeat what the prompt has begun.
        if (yield from self.begins_with(begin)) or begun:
            self.in_reasoning = True
            yield from self.until(end, self.reasoning)
            self.in_reasoning = False

    # --- calls -----------------------------------------------------------------------------------------------

    def attempt(self, read: str) -> None:
        """What follows the marker ``read`` may be a call; until ``call`` it may also be ``reject``-ed."""
        self._raw = [*self._space, read]
        self._space.clear()

    def reject(self) -> None:
        """What was read since ``attempt`` is no call: it is content."""
        raw, self._raw = self._raw or [], None
        self._after_markup = False
        self._write(self.content, "".join(raw))

    def accept(self) -> None:
        """What was read since ``attempt`` is markup. What follows it stands apart from what a sink has taken before."""
        self._raw = None
        self._space = ["\n\n"]
        self._after_markup = True

    def call(self, name: str) -> None:
        """A call begins."""
        self._raw = None
        self._space.clear()
        self.call_parts.append(CallPart(self.num_calls, name=name))
        self.num_calls += 1
        self.in_call = True

    def argue(self, text: str) -> None:
        """The next piece of the call's arguments."""
        if text:
            self.call_parts.append(CallPart(self.num_calls - 1, arguments=text))

    def end_call(self) -> None:
        """The call is complete. Raises ``EnoughError`` where it was the only one allowed."""
        self._after_markup = True
        self.in_call = False
        if self._single_call:
            raise EnoughError
