"""Arguments that are written between tags, one by one, without the quotes of JSON: they are put into JSON here."""

from __future__ import annotations

import json

from gateway.completion.formats.markers import Markers
from gateway.completion.formats.reader import Reader, Steps


def escaped(text: str) -> str:
    """Text as it stands in a JSON string, without the quotes. Pieces may be joined."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class TaggedArguments:
    """Those of one call, which has begun.

    A parameter that the tool's schema calls a string is passed on as it comes. Any other is held back to its end: it
    is what its text means as JSON, or the text where that is none.
    """

    def __init__(self, reader: Reader, tool: str) -> None:
        self._reader = reader
        self._types = reader.schemas.get(tool, {})
        self._before = "{"

    def read(self, name: str, end: Markers, *, without_line_breaks: bool = False) -> Steps[None]:
        """Read a value up to its end."""
        reader = self._reader
        reader.argue(f"{self._before}{json.dumps(name, ensure_ascii=False)}: ")
        self._before = ", "
        if self._types.get(name) == "string":
            reader.argue('"')
            if (yield from reader.verbatim(end, self._argue_text, without_line_breaks=without_line_breaks)):
                reader.argue('"')
            return
        parts: list[str] = []
        ended = yield from reader.verbatim(end, parts.append, without_line_breaks=without_line_breaks)
        text = "".join(parts)
        if ended:
            reader.argue(text.strip() if _is_json(text) else f'"{escaped(text)}"')
        else:
            reader.argue(text)

    def end(self, *, complete: bool) -> None:
        """All have been read, unless the text has ended before; then what there is stays open, as it does in JSON."""
        if complete:
            self._reader.argue("{}" if self._before == "{" else "}")
        self._reader.end_call()

    def _argue_text(self, text: str) -> None:
        self._reader.argue(escaped(text))


def _is_json(text: str) -> bool:
    """Numbers of any size are; they are nowhere made numbers here."""
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is Python's, not JSON's")
