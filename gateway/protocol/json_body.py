"""JSON as requests bring it: strict, within the limits, and no name twice; and what is said where it is not so."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.protocol.json_place import (
    Path,
    first_deeper_than,
    first_named_twice,
    largest_member,
    line_and_column,
    path_at,
    shortened,
    written,
)
from gateway.protocol.limits import Limits

_AT_BYTE = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)")
_CONTAINERS = frozenset((dict, list))
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


class NotAcceptedError(ValueError):
    """What is wrong with a JSON text, as the end of a sentence."""

    def __init__(self, what: str, path: Path = (), code: str = "invalid_json") -> None:
        super().__init__(what)
        self.path, self.code = path, code
        """What leads to the place, as far as that is known."""


class NoJsonError(NotAcceptedError):
    """It is none at all."""


def decode_object(body: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object that a body is. Raises ``InvalidRequest``, which names the member that is wrong."""
    try:
        data = decode(body, limits)
        _check_names(body, data)
    except NotAcceptedError as error:
        raise InvalidRequest(
            f"The request body {error}.", param=written(shortened(error.path)) or None, code=error.code
        ) from None
    if not isinstance(data, dict):
        raise InvalidRequest(f"The request body must be a JSON object, but is {json_type(data)}.", code="invalid_type")
    return data


def decode_text(text: str, param: str, limits: Limits) -> dict[str, Any]:
    """The JSON object that a member of the body holds as text. Raises ``InvalidRequest``."""
    raw = text.encode("utf-8", "surrogatepass")
    try:
        data = decode(raw, limits)
        _check_names(raw, data)
    except NotAcceptedError as error:
        raise InvalidRequest(f"Invalid '{param}': it {error}.", param=param, code=error.code) from None
    if not isinstance(data, dict):
        message = f"Invalid '{param}': must be a JSON object, as text, but is {json_type(data)}."
        raise InvalidRequest(message, param=param, code="invalid_json")
    return data


def check_text(text: str, param: str, limits: Limits) -> None:
    """Of what may be JSON. Raises ``InvalidRequest`` where it is, and beyond the limits.

    It may be a model's own writing, so a name may be there twice.
    """
    try:
        decode(text.encode("utf-8", "surrogatepass"), limits)
    except NoJsonError:
        pass
    except NotAcceptedError as error:
        raise InvalidRequest(f"Invalid '{param}': it {error}.", param=param, code=error.code) from None


def decode(text: bytes, limits: Limits) -> Any:
    """Strict JSON: UTF-8, no NaN or Infinity, no lone surrogates, within the limits. Raises ``NotAcceptedError``."""
    _check_parts(text, limits.max_json_parts)
    try:
        data = msgspec.json.decode(text)
        # Counting brackets is far cheaper than the walk, and nearly always enough.
        many = text.count(b"[") + text.count(b"{") > limits.max_json_depth
        too_deep = many and _deeper_than(data, limits.max_json_depth)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _no_json(text, error) from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise _too_deep(text, limits.max_json_depth)
    return data


def _no_json(text: bytes, error: Exception) -> NoJsonError:
    what, at = _reason(text, error)
    path = _unreadable_member(text) if at is None else path_at(text, at)
    where = "" if at is None else f" at {line_and_column(text, at)}"
    inside = f", in '{_shown(path)}'" if path else ""
    return NoJsonError(f"is not valid JSON: {what}{where}{inside}", path)


def _reason(text: bytes, error: Exception) -> tuple[str, int | None]:
    """What is wrong, and where."""
    if isinstance(error, UnicodeDecodeError):
        try:
            text.decode()
        except UnicodeDecodeError as whole:
            return "a byte that is no UTF-8", whole.start
    if (found := _AT_BYTE.fullmatch(str(error))) is not None:
        return found[1], _begin(text, found[1], min(int(found[2]), len(text)))
    if "truncated" in str(error):
        # Half a surrogate pair at the end of a string is told so too.
        lone = _LONE_SURROGATE.search(text)
        return ("it ends too early", len(text)) if lone is None else ("half a surrogate pair", lone.start())
    return "a number is too large", None


def _begin(text: bytes, what: str, at: int) -> int:
    """The decoder tells how far it has read, which is beyond what it stumbled over: a word, or whatever trails."""
    if what == "trailing characters":
        return max(at - 1, 0)
    for length in (4, 5) if what == "invalid character" else ():
        if text[at - length : at - length + 1] in (b"t", b"n", b"f") and text[at - length : at][:2].isalpha():
            return at - length
    return at


def _shown(path: Path) -> str:
    return written(path) if shortened(path) == path else f"{written(shortened(path))}…"


def _unreadable_member(text: bytes) -> Path:
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    for name, raw in members.items():
        try:
            msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return (name,)
    return ()


def _check_parts(text: bytes, most: int) -> None:
    """Strings aside: those may be long, as may arrays of token ids."""
    if _parts_of(text) <= most or (parts := _parts_of(_outside_of_strings(text))) <= most:
        return
    largest = largest_member(text)
    inside = f", most of them in '{largest[:64]}'" if largest else ""
    raise NotAcceptedError(
        f"has {parts} arrays, objects and members{inside}; at most {most} are allowed here (--max-json-parts)",
        (largest,) if largest else (),
        "too_many_parts",
    )


def _outside_of_strings(text: bytes) -> bytes:
    """Of JSON, as far as it is valid; without a step of Python for each string, of which there may be millions."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


def _parts_of(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{") + text.count(b":")


def _too_deep(text: bytes, most: int) -> NotAcceptedError:
    depth, path = first_deeper_than(text, most)
    # What could not be walked through is deeper still.
    depth = max(depth, most + 1)
    inside = f" at '{_shown(path)}'" if path else ""
    return NotAcceptedError(
        f"is nested {depth} levels deep{inside}; at most {most} are allowed here (--max-json-depth)", path, "too_deep"
    )


def _deeper_than(data: Any, max_depth: int) -> bool:
    level = [data]
    for _ in range(max_depth + 1):
        level = [container for container in level if isinstance(container, dict | list)]
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
    return True


def _check_names(text: bytes, data: Any) -> None:
    """Raises ``NotAcceptedError`` where an object has two members of one name, of which only the last was read."""
    members, colons = _members_of(data), text.count(b":")
    # Whoever wrote both meant one of them; which one, parsers differ about.
    if colons == members or _outside_of_strings(text).count(b":") == members:
        return
    if (found := first_named_twice(text)) is not None:
        at, path = found
        raise NotAcceptedError(f"has '{_shown(path)}' twice, again at {line_and_column(text, at)}", path, "named_twice")


def _members_of(data: Any) -> int:
    """Of all objects in it."""
    count, level = 0, [data]
    while level:
        deeper: list[Any] = []
        for each in level:
            items = each
            if type(each) is dict:
                count += len(each)
                items = each.values()
            elif type(each) is not list:
                continue
            if not _CONTAINERS.isdisjoint(map(type, items)):
                deeper += [item for item in items if type(item) in _CONTAINERS]
        level = deeper
    return count


def json_type(value: Any) -> str:
    """What a JSON value is, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
