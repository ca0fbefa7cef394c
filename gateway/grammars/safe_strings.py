"""JSON Schemas held to strings in which two characters never stand side by side: the beginning of a model's markers.

Some formats read a value up to a marker, wherever that stands. A string that spells the marker would end the value.
"""

from __future__ import annotations

import re
from typing import Any

from gateway.grammars.spelling import CannotSpellError

_ANY = "penstock-any"
_TYPES = ("null", "boolean", "number", "string", "array", "object")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_SINGLE = ("items", "additionalItems", "additionalProperties")
_PLAIN = re.compile(
    r"(?:[A-Za-z0-9_ @:~-]|\\[dw.+*?-]|\[(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|\\[dw]|[A-Za-z0-9_ .@])+-?\]"
    r"|[()|?*+]|\{\d+(?:,\d*)?\})*"
)
"""A regular expression that plainly matches letters, digits and few signs, none of which is part of a marker."""
_ELSEWHERE = frozenset(("$ref", "const", "enum", "allOf", "anyOf", "oneOf"))
"""Keywords that leave it to other schemas, or to values, which types there are."""


def without(pair: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the values of ``schema`` whose strings, and names of members that it leaves open, lack the pair.

    An object that declares members, or patterns of their names, has no others. No pair: the schema as it is. Raises
    ``CannotSpellError`` where names by some pattern might have the pair.
    """
    if not pair:
        return schema
    safe = _Safe(pair).schema(schema, "")
    assert isinstance(safe, dict)
    any_value = _Safe(pair).schema({"type": list(_TYPES)}, "")
    return safe | {"$defs": safe.get("$defs", {}) | {_ANY: any_value}}


class _Safe:
    def __init__(self, pair: str) -> None:
        first, second = (re.escape(character).replace("/", "\\/") for character in pair)
        self._pair = pair
        self._free = f"([^{first}]|{first}+[^{first}{second}])*{first}*"
        self._pattern = f"^{self._free}$"

    def schema(self, schema: Any, path: str) -> Any:
        if schema is True or schema == {}:
            return {"$ref": f"#/$defs/{_ANY}"}
        if not isinstance(schema, dict):
            return schema
        safe = dict(schema)
        for keyword in _MAPS:
            if isinstance(given := schema.get(keyword), dict):
                here = f"{path}.{keyword}"
                safe[keyword] = {name: self.schema(each, f"{here}.{name[:64]}") for name, each in given.items()}
        for keyword in (*_LISTS, *_SINGLE):
            given = schema.get(keyword)
            if isinstance(given, list):
                safe[keyword] = [self.schema(each, f"{path}.{keyword}[{at}]") for at, each in enumerate(given)]
            elif isinstance(given, dict):
                safe[keyword] = self.schema(given, f"{path}.{keyword}")
        types = schema.get("type", list(_TYPES) if _ELSEWHERE.isdisjoint(schema) else [])
        types = [types] if isinstance(types, str) else types
        if "type" not in schema and types:
            safe["type"] = types
        if "string" in types and "enum" not in schema and "const" not in schema:
            self._hold_strings(safe)
        if "array" in types:
            safe.setdefault("items", self.schema(True, path))
        if "object" in types:
            self._hold_names(safe, path)
        return safe

    def _hold_strings(self, safe: dict[str, Any]) -> None:
        if "pattern" in safe or "format" in safe:
            safe["allOf"] = [*safe.get("allOf", []), {"pattern": self._pattern}]
        else:
            safe["pattern"] = self._pattern

    def _hold_names(self, safe: dict[str, Any], path: str) -> None:
        others = safe.get("additionalProperties", True)
        patterns = safe.get("patternProperties", {})
        if patterns:
            safe["patternProperties"] = {self._held(each, path): schema for each, schema in patterns.items()}
        if others is False:
            return
        safe["additionalProperties"] = False
        if not safe.get("properties") and not patterns:
            safe["patternProperties"] = {self._pattern: self.schema(others, path) if others is True else others}

    def _held(self, pattern: str, path: str) -> str:
        """A pattern of those names by the given one that lack the pair."""
        first, last = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
        body = pattern[first : len(pattern) - last]
        # What is in front of, or behind, an expression that is not tied to the ends may be anything.
        if not _PLAIN.fullmatch(body):
            where = f"{path}.patternProperties.{pattern[:64]}"
            raise CannotSpellError(where, f"names by it might hold '{self._pair}', which ends a value in this format")
        return f"^{'' if first else self._free}({body}){'' if last else self._free}$"
