"""JSON that comes in pieces: where a value ends, and whether it is one (RFC 8259), one character at a time."""

from __future__ import annotations

import re

_RUN = re.compile(r'[^"\\]*')
_SCALAR = re.compile(r"[-+.\w]*")
_SPACE = re.compile(r"[ \t\r\n]*")
_VALID = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null", re.ASCII)


class JsonValue:
    """Takes one value. ``scan`` it over the text, from its first character on, until it is ``done`` or ``failed``.

    Line breaks within strings are let through: models write them, and it is for the reader of a call's arguments to
    be strict.
    """

    __slots__ = ("_escaped", "_expect", "_in_string", "_open", "_scalar", "done", "failed")

    def __init__(self) -> None:
        self._open: list[str] = []
        """The brackets around the place that is read, by what closes them."""
        self._expect = "value"
        """What may come next: value, key, colon, or more (a comma or a closing bracket); first and end allow both."""
        self._in_string = False
        self._escaped = False
        self._scalar: list[str] | None = None
        self.done = False
        self.failed = False

    def scan(self, text: str, at: int) -> int:
        """Take what belongs to the value from offset ``at`` on; where that ends."""
        while at < len(text) and not self.done and not self.failed:
            if self._in_string:
                at = self._string(text, at)
            elif self._scalar is not None:
                at = self._rest_of_scalar(text, at)
            else:
                at = self._token(text, at)
        return at

    def _token(self, text: str, at: int) -> int:
        character = text[at]
        if character in " \t\r\n":
            match = _SPACE.match(text, at)
            assert match is not None
            return match.end()
        expect = self._expect
        if expect == "colon" and character == ":":
            self._expect = "value"
        elif expect in ("more", "first key", "first item") and self._open and character == self._open[-1]:
            self._open.pop()
            self._after_value()
        elif expect == "more" and character == ",":
            self._expect = "key" if self._open[-1] == "}" else "value"
        elif expect in ("key", "first key") and character == '"':
            self._in_string = True
            self._expect = "colon"
        elif expect in ("value", "first item"):
            return self._begin_value(text, at)
        else:
            self.failed = True
            return at
        return at + 1

    def _begin_value(self, text: str, at: int) -> int:
        character = text[at]
        if character == '"':
            self._in_string = True
            self._expect = "more"
        elif character == "{":
            self._open.append("}")
            self._expect = "first key"
        elif character == "[":
            self._open.append("]")
            self._expect = "first item"
        elif character == "-" or character.isalnum():
            self._scalar = []
            return at
        else:
            self.failed = True
            return at
        return at + 1

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        match = _RUN.match(text, at)
        assert match is not None
        at = match.end()
        if at == len(text):
            return at
        if text[at] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            if self._expect == "more":
                self._after_value()
        return at + 1

    def _rest_of_scalar(self, text: str, at: int) -> int:
        """Its end shows at the character after it, so the whole text cannot end with one."""
        assert self._scalar is not None
        match = _SCALAR.match(text, at)
        assert match is not None
        self._scalar.append(match.group())
        if match.end() < len(text):
            if _VALID.fullmatch("".join(self._scalar)):
                self._after_value()
            else:
                self.failed = True
            self._scalar = None
        return match.end()

    def _after_value(self) -> None:
        self._expect = "more"
        self.done = not self._open
