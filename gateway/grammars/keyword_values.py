"""Whether the keywords of a JSON Schema have values of types that they can have, for code that reads these values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.grammars.json_schema import children


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_type(value: Any) -> bool:
    return _is_text(value) or _is_texts(value)


_CAN_BE: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("$ref", "pattern", "format"), _is_text),
    **dict.fromkeys(("minLength", "maxLength"), _is_count),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _is_object),
    **dict.fromkeys(("enum", "allOf", "anyOf", "oneOf", "prefixItems"), _is_list),
    "required": _is_texts,
    "type": _is_type,
}


def wrong_value(schema: dict[str, Any]) -> str | None:
    """Where a keyword has a value that it cannot have, as a path within the schema that begins with a dot."""
    pending: list[tuple[Any, str]] = [(schema, "")]
    while pending:
        node, path = pending.pop()
        if not isinstance(node, dict):
            continue
        for keyword, can_be in _CAN_BE.items():
            if keyword in node and not can_be(node[keyword]):
                return f"{path}.{keyword}"
        pending.extend((child, f"{path}.{place}") for place, child in children(node))
    return None
