"""Where in a JSON text something stands, for messages: line and column, and the path that leads there.

Nothing here is needed for a request that is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

Path: TypeAlias = tuple[int | str, ...]

LONGEST = 2**20
"""Bytes that are walked through to find a path; what stands behind them is named by line and column alone."""
MOST_PARTS = 8
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},:]', re.DOTALL)


class _Container:
    """An array or object that has been begun."""

    def __init__(self, *, has_names: bool) -> None:
        self.has_names = has_names
        self.at: int | str = "" if has_names else 0
        """Index, or name of the member that is being read."""
        self.names: set[str] = set()
        self.name_is_due = has_names


def _walk(text: bytes) -> Iterator[tuple[int, list[_Container], bool]]:
    """(where, what is open there, whether the name of a member has just been read) after each token.

    The text may be broken anywhere; what follows the break means nothing.
    """
    stack: list[_Container] = []
    for token in _TOKEN.finditer(text):
        first, named = token[0][:1], False
        top = stack[-1] if stack else None
        if first in b"[{":
            stack.append(_Container(has_names=first == b"{"))
        elif first in b"]}":
            if stack:
                stack.pop()
        elif first == b"," and top is not None:
            top.at = "" if isinstance(top.at, str) else top.at + 1
            top.name_is_due = top.has_names
        elif first == b'"' and top is not None and top.name_is_due:
            top.at, top.name_is_due, named = _name(token[0]), False, True
        yield token.start(), stack, named


def _name(quoted: bytes) -> str:
    try:
        return msgspec.json.decode(quoted, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return quoted[1:].rstrip(b'"').decode(errors="replace")


def _path(stack: list[_Container]) -> Path:
    return tuple(each.at for each in stack if each.at != "")


def line_and_column(text: bytes, offset: int) -> str:
    """``line 3, column 7``, both from 1; columns count bytes."""
    begin = text.rfind(b"\n", 0, offset) + 1
    line = text.count(b"\n", 0, begin) + 1
    return f"line {line}, column {offset - begin + 1}"


def written(path: Path) -> str:
    """``("messages", 0, "content")`` → ``messages[0].content``; long names are cut."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part[:64]}" if text else part[:64]
    return text


def shortened(path: Path) -> Path:
    """Its beginning: what is too deep would fill a page."""
    return path[:MOST_PARTS]


def path_at(text: bytes, offset: int) -> Path:
    """What leads to the value in which the offset lies; empty at the top, and where that is too far to look."""
    found: Path = ()
    if offset > LONGEST:
        return found
    for where, stack, _ in _walk(text[: offset + 1]):
        if where >= offset:
            break
        found = _path(stack)
    return found


def first_deeper_than(text: bytes, levels: int) -> tuple[int, Path]:
    """How deep it gets, counted as far as ``LONGEST``, and where it first gets deeper than ``levels``."""
    deepest = 0
    first: Path = ()
    for _, stack, _ in _walk(text[:LONGEST]):
        if len(stack) > deepest:
            deepest = len(stack)
            if deepest == levels + 1:
                first = _path(stack[:-1])
    return deepest, first


def first_named_twice(text: bytes) -> tuple[int, Path] | None:
    """Where a member of an object has a name that one before it has, and what leads there. Of valid JSON."""
    for where, stack, named in _walk(text):
        if not named:
            continue
        top, name = stack[-1], str(stack[-1].at)
        if name in top.names:
            return where, _path(stack)
        top.names.add(name)
    return None


def largest_member(text: bytes) -> str | None:
    """The member of the object with most arrays, objects and members; None where it is no object that can be read."""
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    sizes = {name: sum(bytes(raw).count(sign) for sign in (b"[", b"{", b":")) for name, raw in members.items()}
    return max(sizes, key=lambda name: sizes[name], default=None)
