"""JSON Schemas held to strings in which two characters never stand side by side: the beginning of a model's markers.

Some formats read a value up to a marker, wherever that stands. A string that spells the marker would end the value.
"""

from __future__ import annotations

import re
from typing import Any

_ANY = "penstock-any"
_TYPES = ("null", "boolean", "number", "string", "array", "object")
_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_SINGLE = ("items", "additionalItems", "additionalProperties")
_ELSEWHERE = frozenset(("$ref", "const", "enum", "allOf", "anyOf", "oneOf"))
"""Keywords that leave it to other schemas, or to values, which types there are."""


def without(pair: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the values of ``schema`` whose strings, and names of members that it leaves open, lack the pair.

    An object that declares members has no others. No pair: the schema as it is.
    """
    if not pair:
        return schema
    safe = _Safe(pair).schema(schema)
    assert isinstance(safe, dict)
    any_value = _Safe(pair).schema({"type": list(_TYPES)})
    return safe | {"$defs": safe.get("$defs", {}) | {_ANY: any_value}}


class _Safe:
    def __init__(self, pair: str) -> None:
        first, second = (re.escape(character).replace("/", "\\/") for character in pair)
        self._pattern = f"^([^{first}]|{first}+[^{first}{second}])*{first}*$"

    def schema(self, schema: Any) -> Any:
        if schema is True or schema == {}:
            return {"$ref": f"#/$defs/{_ANY}"}
        if not isinstance(schema, dict):
            return schema
        safe = dict(schema)
        for keyword in _MAPS:
            if isinstance(given := schema.get(keyword), dict):
                safe[keyword] = {name: self.schema(each) for name, each in given.items()}
        for keyword in (*_LISTS, *_SINGLE):
            given = schema.get(keyword)
            if isinstance(given, list):
                safe[keyword] = [self.schema(each) for each in given]
            elif isinstance(given, dict):
                safe[keyword] = self.schema(given)
        types = schema.get("type", list(_TYPES) if _ELSEWHERE.isdisjoint(schema) else [])
        types = [types] if isinstance(types, str) else types
        if "type" not in schema and types:
            safe["type"] = types
        if "string" in types and "enum" not in schema and "const" not in schema:
            self._hold_strings(safe)
        if "array" in types:
            safe.setdefault("items", self.schema(True))
        if "object" in types:
            self._hold_names(safe)
        return safe

    def _hold_strings(self, safe: dict[str, Any]) -> None:
        if "pattern" in safe or "format" in safe:
            safe["allOf"] = [*safe.get("allOf", []), {"pattern": self._pattern}]
        else:
            safe["pattern"] = self._pattern

    def _hold_names(self, safe: dict[str, Any]) -> None:
        others = safe.get("additionalProperties", True)
        if others is False or "patternProperties" in safe:
            return
        safe["additionalProperties"] = False
        if not safe.get("properties"):
            safe["patternProperties"] = {self._pattern: self.schema(others) if others is True else others}
