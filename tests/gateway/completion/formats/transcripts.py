"""What every format is held to: a transcript's meaning does not depend on how its text is cut."""

from __future__ import annotations

import gc
import json
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from types import FrameType
from typing import Any

from gateway.completion.events import CallDelta
from gateway.completion.formats.base import CallSyntax
from gateway.completion.parser import Parser, Parsing
from gateway.completion.stream import joined_calls


@dataclass(frozen=True)
class Transcript:
    """A text as a model writes it, and what it says."""

    name: str
    text: str
    content: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    """(name, arguments): an object for arguments that are valid JSON, text for others."""
    reasoning: str = ""


def spelt(syntax: CallSyntax, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Calls as the syntax has them."""
    each = [f"{syntax.before}{name}{syntax.middle}{_arguments(syntax, given)}{syntax.after}" for name, given in calls]
    return syntax.begin + syntax.between.join(each) + syntax.end


def _arguments(syntax: CallSyntax, given: dict[str, Any]) -> str:
    written = syntax.arguments
    if written is None:
        return json.dumps(given)

    def value(given: Any) -> str:
        return given if written.plain_text and isinstance(given, str) else json.dumps(given)

    parts = [f"{written.before}{name}{written.middle}{value(each)}{written.after}" for name, each in given.items()]
    return written.between.join(parts)


def new_parser(parsing: Parsing) -> Parser:
    return Parser(parsing, seed=7, choice=0, prompt=[1, 2, 3])


class Heard:
    """Everything that a parser has said so far."""

    def __init__(self) -> None:
        self.content = self.reasoning = ""
        self.calls: list[CallDelta] = []

    def take(self, parser: Parser) -> None:
        news = parser.take()
        self.content += news.content
        self.reasoning += news.reasoning
        self.calls += news.calls

    def state(self) -> tuple[str, str, tuple[CallDelta, ...]]:
        return self.content, self.reasoning, joined_calls(self.calls)


def hear(parsing: Parsing, pieces: Iterable[str], *, cut: bool = False) -> tuple[str, str, tuple[CallDelta, ...]]:
    parser, heard = new_parser(parsing), Heard()
    for piece in pieces:
        parser.feed(piece)
        heard.take(parser)
    parser.finish(cut=cut)
    heard.take(parser)
    for index, call in enumerate(heard.calls):
        first = call.index not in {earlier.index for earlier in heard.calls[:index]}
        assert (call.id is not None and call.name is not None) == first, "id and name come once, with the first"
    return heard.state()


def check(parsing: Parsing, transcript: Transcript) -> None:
    """The text means what it should, whole, cut at every place, and one character at a time."""
    text = transcript.text
    whole = hear(parsing, [text])
    content, reasoning, calls = whole
    assert (content, reasoning) == (transcript.content, transcript.reasoning)
    assert [call.index for call in calls] == list(range(len(calls)))
    assert len({call.id for call in calls}) == len(calls)
    expected = [(name, given) for name, given in transcript.calls]
    assert [
        (call.name, call.arguments if isinstance(given, str) else json.loads(call.arguments))
        for call, (_, given) in zip(calls, expected, strict=True)
    ] == expected
    for at in range(len(text) + 1):
        assert hear(parsing, [text[:at], text[at:]]) == whole, f"cut before {text[at : at + 20]!r}"
    assert hear(parsing, text) == whole
    rng = random.Random(text)
    for _ in range(20):
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(2, 12)))
        assert hear(parsing, [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]) == whole


def check_prefixes(parsing: Parsing, text: str) -> None:
    """What is out after a beginning of the text depends on that beginning alone, and grows with it."""
    parser, heard = new_parser(parsing), Heard()
    for at, character in enumerate(text):
        parser.feed(character)
        heard.take(parser)
        at_once, expected = new_parser(parsing), Heard()
        at_once.feed(text[: at + 1])
        expected.take(at_once)
        assert heard.state() == expected.state(), f"after {text[: at + 1][-20:]!r}"
        check_cut(at_once)


def check_cut(parser: Parser) -> None:
    """Where the text is cut here, nothing of what may yet be markup is shown, but for the first half of a marker."""
    awaited = parser._reader._awaited
    parser.finish(cut=True)
    rest = parser.take()
    assert all(call.name is None for call in rest.calls), "no call begins because the text ends"
    for left in (rest.content.strip(), rest.reasoning.strip()):
        assert not left or any(marker.startswith(left) and 2 * len(left) <= len(marker) for marker in awaited)


def steps(parsing: Parsing, pieces: list[str]) -> int:
    """How many lines of Python reading the pieces takes, and characters that they copy at most once each."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # what other tests have left would run its finalizers here, and they would be counted
    sys.settrace(trace)
    try:
        hear_nothing(parsing, pieces)
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return count


def hear_nothing(parsing: Parsing, pieces: list[str]) -> None:
    parser = new_parser(parsing)
    for piece in pieces:
        parser.feed(piece)
        parser.take()
    parser.finish()
    parser.take()


def check_linear(parsing: Parsing, *texts: str, size: int = 600) -> None:
    """Twice the text takes no more than twice the steps, in pieces of any size; each text is one that repeats."""
    for text in texts:
        for cut in (1, 7, 10**6):
            once, twice = (text * (n * size // len(text) + 1) for n in (1, 2))
            counts = [steps(parsing, [long[i : i + cut] for i in range(0, len(long), cut)]) for long in (once, twice)]
            assert counts[1] <= 2.2 * counts[0] + 200, f"{text!r} in pieces of {cut}: {counts}"
            left = new_parser(parsing)
            for i in range(0, len(twice), cut):
                left.feed(twice[i : i + cut])
            assert left.unread < 64, "what a new piece is joined to must be short"
