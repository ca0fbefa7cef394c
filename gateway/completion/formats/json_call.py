"""Calls that are written as a JSON object, ``{"name": …, "arguments": {…}}``: what most formats wrap in markers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gateway.completion.formats.json_value import JsonValue
from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps

Outcome = Literal["none", "complete", "broken"]
"""``none``: the text is no call, and nothing was made of it. ``broken``: a call began and went wrong; it is open."""

_NAME, _ARGUMENTS = "name", ("arguments", "parameters")
_OTHERS = ("id", "type", "tool_call_id", "tool_name")
"""Members that some models add, passed over."""


def read_call(reader: Reader) -> Steps[Outcome]:
    """One object. The call begins as soon as its name is known and its arguments begin; then they are passed on.

    The name may come after the arguments: then these are held back until it does. An object without arguments is a
    call without any. Arguments that are text are taken for the object that is written in it.
    """
    if (yield from reader.skip_space()) != "{":
        return "none"
    reader.skip()
    members = _Members(reader)
    while (yield from members.read_one()):
        following = yield from reader.skip_space()
        if following == "}" and members.name is not None:
            reader.skip()
            members.begin()
            reader.end_call()
            return "complete"
        if following != ",":
            break
        reader.skip()
    return "broken" if members.begun else "none"


def read_calls(reader: Reader, *, opened: bool = False) -> Steps[Outcome]:
    """An array of such objects, or one alone; ``none`` where the first is no call.

    ``opened``: the array's bracket has been read.
    """
    if not opened:
        if (yield from reader.skip_space()) != "[":
            return (yield from read_call(reader))
        reader.skip()
    outcome = yield from read_call(reader)
    while outcome == "complete":
        following = yield from reader.skip_space()
        if following == "]":
            reader.skip()
        if following != ",":
            break
        reader.attempt(reader.skip())
        outcome = yield from read_call(reader)
        if outcome == "none":
            reader.reject()
            return "complete"
    return outcome


def read_rest_of_broken(reader: Reader, end: Markers) -> Steps[None]:
    """After arguments that have gone wrong: what the model wrote up to the marker is theirs."""
    yield from reader.until(end, reader.arguments)
    reader.end_call()


class _Members:
    """Those of one call."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._held: str | None = None
        """Arguments that came before the name."""
        self.name: str | None = None
        self.begun = False

    def begin(self) -> None:
        """The call begins, with what is known of its arguments; a no-op where it has begun."""
        if not self.begun and self.name is not None:
            self.begun = True
            self._reader.call(self.name)
            self._reader.argue("{}" if self._held is None else self._held)

    def read_one(self) -> Steps[bool]:
        """False where there is no member that a call may have."""
        reader = self._reader
        key = yield from _member_name(reader)
        if key == _NAME and self.name is None:
            name = yield from read_value(reader)
            decoded = _decoded(name)
            if not isinstance(decoded, str) or not decoded:
                return False
            self.name = decoded
            if self._held is not None:
                self.begin()
            return True
        if key in _ARGUMENTS and not self.begun and self._held is None:
            if self.name is not None:
                self.begun = True
                reader.call(self.name)
                return (yield from read_arguments(reader))
            held = yield from read_value(reader)
            self._held = None if held is None else _as_object(held)
            return held is not None
        return key in _OTHERS and (yield from read_value(reader)) is not None


def read_arguments(reader: Reader) -> Steps[bool]:
    """Pass the call's arguments on as they come; False where they stop being JSON, before the character that shows it.

    Raises nothing: what has been passed on stays, as the model wrote it.
    """
    first = yield from reader.skip_space()
    if first == '"':
        text, complete = yield from _read(reader)
        reader.argue(_as_object(text))
        return complete
    if first == "n" and (yield from reader.literal("null")):
        reader.argue("{}")
        return True
    value = JsonValue()
    while not value.done:
        taken = yield from reader.take(value.scan)
        reader.argue(taken)
        if value.failed or not (taken or value.done):
            return False
    return True


def read_value(reader: Reader) -> Steps[str | None]:
    """One JSON value as it is written; None where there is none."""
    yield from reader.skip_space()
    text, complete = yield from _read(reader)
    return text if complete else None


def _read(reader: Reader) -> Steps[tuple[str, bool]]:
    """A value as far as it is one, and whether it is one to its end."""
    value, parts = JsonValue(), []
    while not value.done:
        taken = yield from reader.take(value.scan)
        parts.append(taken)
        if value.failed or not (taken or value.done):
            return "".join(parts), False
    return "".join(parts), True


def _member_name(reader: Reader) -> Steps[str | None]:
    if (yield from reader.skip_space()) != '"':
        return None
    text = yield from read_value(reader)
    key = _decoded(text)
    if (yield from reader.skip_space()) != ":":
        return None
    reader.skip()
    return key if isinstance(key, str) else None


def _decoded(text: str | None) -> Any:
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _as_object(text: str) -> str:
    """Arguments as they were written, or as they were written within a string."""
    if text == "null":
        return "{}"
    value = _decoded(text) if text.startswith('"') else text
    return value if isinstance(value, str) and value else text
