"""Structural tags in the form of a tree of formats, as a Lark grammar.

The form is XGrammar's ("Structural Tag Usage", its documentation), as vLLM takes it. Texts in which no schema or
grammar stands are one regular expression, so that each begins and ends exactly where it may; the others are rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from engine.grammar import json_rule, text_rule
from gateway.grammars.spelling import literally

ANY = "/(?s:.*)/"

Ends: TypeAlias = tuple[str, ...] | None
"""The texts of which one has to follow a format; None where the answer ends with it."""


class NotWritableError(Exception):
    """A tree that no grammar can be made of."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = path
        """Within the tree; begins with a dot where it is not empty."""


@dataclass(frozen=True, slots=True)
class Text:
    """This text alone."""

    value: str


@dataclass(frozen=True, slots=True)
class Pattern:
    rule: str
    """What a Lark rule says for it (``engine.grammar.regex_rule``)."""


@dataclass(frozen=True, slots=True)
class Json:
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OwnGrammar:
    """A caller's GBNF or Lark."""

    source: str


@dataclass(frozen=True, slots=True)
class AnyText:
    """Up to the first of the texts that follow it."""

    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sequenced:
    elements: tuple[Format, ...]


@dataclass(frozen=True, slots=True)
class Either:
    elements: tuple[Format, ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    content: Format
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Tagged:
    begin: str
    content: Format
    ends: tuple[str, ...]
    """One of them follows."""


@dataclass(frozen=True, slots=True)
class Triggered:
    """Any text in which triggers begin tags."""

    triggers: tuple[str, ...]
    tags: tuple[Tagged, ...]
    at_least_one: bool = False
    """It begins with a tag, and no text before."""
    stop_after_first: bool = False
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Separated:
    """Tags, and nothing else between them than the separator."""

    tags: tuple[Tagged, ...]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


Format: TypeAlias = (
    Text | Pattern | Json | OwnGrammar | AnyText | Sequenced | Either | Repeated | Tagged | Triggered | Separated
)


@dataclass(frozen=True, slots=True)
class Written:
    """A grammar in which those that the callers wrote themselves have still to be put."""

    source: str
    embedded: tuple[tuple[int, str, str], ...]
    """Where, which, and their paths within the tree; in the order of their places."""
    parts: tuple[tuple[str, str], ...]
    """Schemas and expressions: paths within the tree, and what a rule says for them."""


@dataclass(frozen=True, slots=True)
class _Piece:
    rule: str
    regular: bool
    """Whether it may stand in a terminal."""


_EMPTY = _Piece('""', regular=True)


def is_open(format_: Format) -> bool:
    """Whether it may go on without an end of its own."""
    match format_:
        case AnyText() | Triggered():
            return True
        case Sequenced(elements=elements) | Either(elements=elements):
            return any(map(is_open, elements))
        case Repeated(content=content):
            return is_open(content)
        case Tagged(content=content, ends=ends):
            return not any(ends) and is_open(content)
        case _:
            return False


def formats_grammar(format_: Format) -> Written:
    """Raises ``NotWritableError``."""
    writer = _Writer()
    start = writer.write(format_, "", None)
    lines = [f"start: {writer.in_rule(start)}", *writer.lines]
    return Written(*_with_places("\n".join(lines) + "\n", writer.embedded), tuple(writer.parts))


def _with_places(source: str, embedded: Sequence[tuple[str, str]]) -> tuple[str, tuple[tuple[int, str, str], ...]]:
    """Takes out the marks, which no text can hold: those in literals are escaped."""
    # Rules stand in another order than the grammars were found in.
    text, *parts = source.split(_MARK)
    found = []
    for part in parts:
        number, _, rest = part.partition(_MARK_END)
        found.append((len(text), *embedded[int(number)]))
        text += rest
    return text, tuple(found)


_MARK, _MARK_END = "\x00", "\x01"
"""Around the number of an embedded grammar. Such signs are escaped in text, and expressions are refused them."""


@dataclass(slots=True)
class _Writer:
    lines: list[str] = field(default_factory=list)
    embedded: list[tuple[str, str]] = field(default_factory=list)
    """Grammars and their paths."""
    parts: list[tuple[str, str]] = field(default_factory=list)
    """Paths and rules."""
    names: int = 0

    def write(self, format_: Format, path: str, ends: Ends | tuple[()]) -> _Piece:
        """With one of ``ends`` after it, if there are any. ``()``: what is open may not stand here."""
        if ends == () and is_open(format_):
            raise NotWritableError(
                path, "nothing says where its text ends: it has to come last, or within a tag that ends"
            )
        match format_:
            case AnyText(excludes=excludes):
                return self._text((), excludes, ends)
            case Triggered():
                return self._triggered(format_, path, ends)
            case Sequenced(elements=elements):
                return self._sequence(elements, path, ends)
            case Either(elements=elements):
                each = [self.write(one, f"{path}.elements[{at}]", ends) for at, one in enumerate(elements)]
                return self._either(each)
            case Tagged():
                return self._closed(
                    self._tag(format_, path, ends), ends, done=not any(format_.ends) and is_open(format_)
                )
            case Repeated(content=content, least=0, most=1) if is_open(content):
                return self._either([self.write(content, f"{path}.content", ends), self._closed(_EMPTY, ends)])
            case Repeated(content=content, least=least, most=most):
                inner = self.write(content, f"{path}.content", ())
                return self._closed(self._repeated(inner, least, most), ends)
            case Separated():
                return self._closed(self._separated(format_, path), ends)
            case _:
                return self._closed(self._leaf(format_, path), ends)

    def in_rule(self, piece: _Piece) -> str:
        if not piece.regular or piece == _EMPTY:
            return piece.rule
        return self._named("T", piece.rule)

    def _named(self, kind: str, body: str) -> str:
        self.names += 1
        name = f"{kind}{self.names}"
        self.lines.append(f"{name}: {body}")
        return name

    def _leaf(self, format_: Format, path: str) -> _Piece:
        match format_:
            case Text(value=value):
                return _Piece(text_rule(value), regular=True)
            case Pattern(rule=rule):
                self.parts.append((f"{path}.pattern", rule))
                return _Piece(rule, regular=True)
            case Json(schema=schema):
                self.parts.append((f"{path}.json_schema", rule := json_rule(schema)))
                return _Piece(rule, regular=False)
            case OwnGrammar(source=source):
                self.embedded.append((source, f"{path}.grammar"))
                return _Piece(self._named("own", f"{_MARK}{len(self.embedded) - 1}{_MARK_END}"), regular=False)
        raise AssertionError(format_)

    def _closed(self, piece: _Piece, ends: Ends, *, done: bool = False) -> _Piece:
        return piece if not ends or done else self._joined([piece, _any_of(ends)])

    def _joined(self, pieces: Sequence[_Piece]) -> _Piece:
        pieces = [piece for piece in pieces if piece != _EMPTY]
        if len(pieces) < 2:
            return pieces[0] if pieces else _EMPTY
        if all(piece.regular for piece in pieces):
            return _Piece(f"({' '.join(piece.rule for piece in pieces)})", regular=True)
        parts: list[str] = []
        run: list[_Piece] = []
        for piece in [*pieces, None]:
            if piece is not None and piece.regular:
                run.append(piece)
                continue
            if run:
                parts.append(self.in_rule(self._joined(run)))
                run = []
            if piece is not None:
                parts.append(piece.rule)
        return _Piece(f"({' '.join(parts)})", regular=False)

    def _either(self, pieces: Sequence[_Piece]) -> _Piece:
        if all(piece.regular for piece in pieces):
            return _Piece(f"({' | '.join(piece.rule for piece in pieces)})", regular=True)
        return _Piece(f"({' | '.join(map(self.in_rule, pieces))})", regular=False)

    def _repeated(self, piece: _Piece, least: int, most: int | None) -> _Piece:
        count = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
        count = count or f"{{{least},{'' if most is None else most}}}"
        inner = piece.rule if piece.regular else self._named("r", piece.rule)
        return _Piece(f"({inner}){count}", piece.regular)

    def _sequence(self, elements: Sequence[Format], path: str, ends: Ends) -> _Piece:
        last = len(elements) - 1
        pieces = [
            self.write(one, f"{path}.elements[{at}]", ends if at == last else ()) for at, one in enumerate(elements)
        ]
        return self._joined(pieces)

    def _tag(self, tag: Tagged, path: str, ends: Ends) -> _Piece:
        """Without what follows it; but where it has no end of its own, what is open in it takes ``ends`` along."""
        if any(tag.ends):
            if not all(tag.ends):
                raise NotWritableError(f"{path}.end", "an end that is empty cannot stand beside others")
            content = self.write(tag.content, f"{path}.content", tag.ends)
        else:
            content = self.write(tag.content, f"{path}.content", ends if is_open(tag.content) else ())
        return self._joined([_Piece(text_rule(tag.begin), regular=True) if tag.begin else _EMPTY, content])

    def _separated(self, given: Separated, path: str) -> _Piece:
        tag = self._either([self._tag(each, f"{path}.tags[{at}]", ()) for at, each in enumerate(given.tags)])
        more = self._joined([_Piece(text_rule(given.separator), regular=True) if given.separator else _EMPTY, tag])
        whole = tag if given.stop_after_first else self._joined([tag, self._repeated(more, 0, None)])
        return whole if given.at_least_one else self._repeated(whole, 0, 1)

    def _triggered(self, given: Triggered, path: str, ends: Ends) -> _Piece:
        stops = (*given.triggers, *(ends or ()))
        for at, trigger in enumerate(given.triggers):
            if (hidden := next((each for each in stops if trigger in each[:-1]), None)) is not None:
                why = f"it stands in '{hidden[:64]}', which could never be written"
                raise NotWritableError(f"{path}.triggers[{at}]", why)
        bodies = []
        firsts = []
        for at, tag in enumerate(given.tags):
            begun = next((each for each in given.triggers if tag.begin.startswith(each)), None)
            if begun is None:
                raise NotWritableError(f"{path}.tags[{at}].begin", "it begins with none of the triggers")
            rest = self._tag(Tagged(tag.begin[len(begun) :], tag.content, tag.ends), f"{path}.tags[{at}]", ())
            head = _up_to((begun,), stops, given.excludes)
            bodies.append(self._joined([_Piece(self._named("T", head.rule), regular=False), rest]))
            if given.at_least_one:
                firsts.append(self._tag(tag, f"{path}.tags[{at}]", ()))
        text = self._text(given.triggers, given.excludes, ends)
        first, body = self._either(firsts) if firsts else _EMPTY, self._either(bodies)
        if given.stop_after_first:
            return self._closed(first, ends) if firsts else self._either([self._closed(body, ends), text])
        return self._joined([first, self._repeated(body, 0, None), text])

    def _text(self, never: tuple[str, ...], excludes: tuple[str, ...], ends: Ends) -> _Piece:
        """Text without any of ``never``, to the first of the ends or to the end of all."""
        if ends:
            return _up_to(ends, (*never, *ends), excludes)
        return _Piece(_without((*never, *excludes)), regular=True)


def _any_of(texts: Sequence[str]) -> _Piece:
    spelt = [text_rule(text) for text in texts]
    return _Piece(spelt[0] if len(spelt) == 1 else f"({' | '.join(spelt)})", regular=True)


def _without(texts: Sequence[str]) -> str:
    return f"({ANY} & ~/(?s:.*)({_spelt(texts)})(?s:.*)/)" if texts else ANY


def _up_to(texts: Sequence[str], stops: Sequence[str], excludes: Sequence[str]) -> _Piece:
    """Text that one of ``texts`` ends, and before that none of ``stops``. None of these is another's beginning."""
    whole = f"({_without(excludes)} {_any_of(texts).rule})"
    return _Piece(f"({whole} & ~/(?s:.*)({_spelt(stops)})(?s:.+)/)", regular=True)


def _spelt(texts: Sequence[str]) -> str:
    return "|".join(literally(text) for text in sorted(set(texts)))
