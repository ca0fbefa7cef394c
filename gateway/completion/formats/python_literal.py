"""Python's literals, put into JSON as they come."""

from __future__ import annotations

import re

from gateway.completion.formats.reader import Reader, Steps
from gateway.completion.formats.tagged import escaped

DEEPEST = 32
"""Of containers in containers; as deep as a request's JSON may be."""

_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
_SCALAR = re.compile(r"[-+.\w]*")
_RUNS = {quote: re.compile(f"[^{quote}\\\\]*") for quote in ("'", '"')}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_CODES = {"x": 2, "u": 4, "U": 8}
_CLOSING = {"[": "]", "(": ")", "{": "}"}


def read_literal(reader: Reader, depth: int = 0) -> Steps[bool]:
    """Read a value and pass it on as JSON; False where there is none, before the character that shows it."""
    first = yield from reader.skip_space()
    if first in ("'", '"'):
        return (yield from _read_text(reader, first))
    if first in _CLOSING and depth < DEEPEST:
        return (yield from _read_container(reader, first, depth + 1))
    parts = []
    while part := (yield from reader.take(_end_of_scalar)):
        parts.append(part)
    word = "".join(parts)
    value = _WORDS.get(word) or (word if _NUMBER.fullmatch(word) else None)
    reader.argue(word if value is None else value)
    return value is not None


def _end_of_scalar(text: str, at: int) -> int:
    found = _SCALAR.match(text, at)
    return at if found is None else found.end()


def _read_container(reader: Reader, opening: str, depth: int) -> Steps[bool]:
    closing = _CLOSING[opening]
    reader.skip()
    reader.argue("{" if opening == "{" else "[")
    filled = False
    while (yield from reader.skip_space()) != closing:
        if filled:
            if (yield from reader.peek()) != ",":
                return False
            reader.skip()
            if (yield from reader.skip_space()) == closing:
                break
            reader.argue(", ")
        filled = True
        if opening == "{":
            quote = yield from reader.peek()
            if quote not in ("'", '"') or not (yield from _read_text(reader, quote)):
                return False
            if (yield from reader.skip_space()) != ":":
                return False
            reader.skip()
            reader.argue(": ")
        if not (yield from read_literal(reader, depth)):
            return False
    reader.skip()
    reader.argue("}" if opening == "{" else "]")
    return True


def _read_text(reader: Reader, quote: str) -> Steps[bool]:
    run = _RUNS[quote]

    def end_of_run(text: str, at: int) -> int:
        found = run.match(text, at)
        return at if found is None else found.end()

    reader.skip()
    reader.argue('"')
    while True:
        reader.argue(escaped((yield from reader.take(end_of_run))))
        following = yield from reader.peek()
        if following == quote:
            reader.skip()
            reader.argue('"')
            return True
        if following == "\\":
            reader.skip()
            text = yield from _read_escape(reader)
            reader.argue(escaped(text))
        elif not following:
            return False


def _read_escape(reader: Reader) -> Steps[str]:
    """What follows a backslash, as what it stands for. As in Python, a backslash before anything else is one."""
    kind = yield from reader.peek()
    if not kind:
        return "\\"
    reader.skip()
    if kind in _CODES:
        digits = ""
        while len(digits) < _CODES[kind]:
            digit = yield from reader.peek()
            if not digit or digit not in "0123456789abcdefABCDEF":
                return f"\\{kind}{digits}"
            digits += reader.skip()
        code = int(digits, 16)
        return chr(code) if code <= 0x10FFFF and not 0xD800 <= code < 0xE000 else "\ufffd"
    return _ESCAPES.get(kind, kind if kind in "\\'\"" else f"\\{kind}")
