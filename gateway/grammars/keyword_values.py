"""Whether the keywords of a JSON Schema have values of types that they can have, for code that reads these values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.grammars.json_schema import children

TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _has_some(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_type(value: Any) -> bool:
    types = [value] if _is_text(value) else value
    return isinstance(types, list) and bool(types) and all(each in TYPES for each in types)


_COUNTS = [f"{bound}{what}" for bound in ("min", "max") for what in ("Length", "Items", "Properties")]
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_CAN_BE: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("$ref", "pattern", "format"), (_is_text, "text")),
    **dict.fromkeys(_COUNTS, (_is_count, "a whole number from 0 to 2147483647")),
    **dict.fromkeys(_BOUNDS, (_is_number, "a number")),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), (_is_object, "an object")),
    **dict.fromkeys(("enum", "anyOf", "oneOf"), (_has_some, "an array that is not empty")),
    **dict.fromkeys(("allOf", "prefixItems"), (_is_list, "an array")),
    "required": (_is_texts, "an array of text"),
    "type": (_is_type, f"one or an array of {', '.join(TYPES)}"),
}


def wrong_value(schema: dict[str, Any]) -> tuple[str, str] | None:
    """(where, what it must be) of a keyword with a value that it cannot have. A path within the schema, after a dot."""
    pending: list[tuple[Any, str]] = [(schema, "")]
    while pending:
        node, path = pending.pop()
        if not isinstance(node, dict):
            continue
        for keyword, (can_be, wanted) in _CAN_BE.items():
            if keyword in node and not can_be(node[keyword]):
                return f"{path}.{keyword}", f"must be {wanted}"
        pending.extend((child, f"{path}.{place}") for place, child in children(node))
    return None
