"""Objects have the members that their schema names, unless it says that there may be others.

By the letter of JSON Schema an object may have any further members. A model that is allowed to will sooner or later
add some, and small ones add them for ever; who writes ``properties`` and no ``additionalProperties`` hardly means that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from gateway.grammars.json_schema import resolve

_MAPS = ("properties", "patternProperties")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf", "items")
_SINGLE = ("items", "additionalItems", "additionalProperties")
_COMBINED = ("$ref", "allOf", "anyOf", "oneOf")
_SAYS_MORE = ("additionalProperties", "patternProperties", "const", "enum", *_COMBINED)

Schema = dict[str, Any]


def close_objects(schema: Schema) -> Schema:
    """The same with ``additionalProperties: false`` wherever that rules out nothing but members that are not named.

    ``schema`` has been checked (``json_schema.check_schema``): its references point at something.

    What several schemas hold for together (``allOf``, a reference beside other keywords) stays open, since each would
    rule out the other's members. So does all within ``oneOf``: a text that is valid for one closed member may be valid
    for two open ones.
    """
    root = copy.deepcopy(schema)
    stay_open: set[int] = set()
    found: dict[int, Schema] = {}
    seen: set[tuple[int, bool]] = set()
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        node, combined = pending.pop()
        if not isinstance(node, dict) or (id(node), combined) in seen:
            continue
        seen.add((id(node), combined))
        found[id(node)] = node
        if combined:
            stay_open.add(id(node))
        pending.extend(_parts(node, root, combined))
    for key, node in found.items():
        if key not in stay_open and _names_all(node):
            node["additionalProperties"] = False
    return root


def _parts(node: Schema, root: Schema, combined: bool) -> Iterator[tuple[Any, bool]]:
    """Subschemas, and whether each of them holds together with others."""
    for keyword in _MAPS:
        if isinstance(value := node.get(keyword), dict):
            yield from ((child, combined) for child in value.values())
    together = combined or sum(_weight(keyword, node[keyword]) for keyword in node) > 1
    for keyword in _LISTS:
        if isinstance(value := node.get(keyword), list):
            flag = {"oneOf": True, "allOf": together, "anyOf": together}.get(keyword, combined)
            yield from ((child, flag) for child in value)
    for keyword in _SINGLE:
        yield node.get(keyword), combined
    if isinstance(reference := node.get("$ref"), str):
        yield resolve(root, reference), together


def _weight(keyword: str, value: Any) -> int:
    """How many schemas of an object the keyword brings."""
    if keyword == "allOf" and isinstance(value, list):
        return len(value)
    return 1 if keyword in (*_COMBINED, *_MAPS, *_SINGLE, "required", "minProperties", "maxProperties") else 0


def _names_all(node: Schema) -> bool:
    """Whether all that the node asks for is among the members that it names, and it says nothing of others."""
    named, required, least = node.get("properties"), node.get("required", []), node.get("minProperties", 0)
    if not isinstance(named, dict) or any(keyword in node for keyword in _SAYS_MORE):
        return False
    if not isinstance(required, list) or not isinstance(least, int):
        return False  # the compiler says what is wrong
    return least <= len(named) and all(isinstance(name, str) and name in named for name in required)
