"""Objects have the members that their schema names: where they are closed, and where that would rule out more."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.grammars.closed_objects import close_objects

A: dict[str, Any] = {"properties": {"a": {"type": "integer"}}}
B: dict[str, Any] = {"properties": {"b": {"type": "integer"}}}
SHUT = {"additionalProperties": False}


def valid(schema: dict[str, Any], value: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        (A, A | SHUT),
        ({"properties": {}}, {"properties": {}} | SHUT),
        (
            A | {"required": ["a"], "type": ["object", "null"]},
            A | {"required": ["a"], "type": ["object", "null"]} | SHUT,
        ),
        ({"items": A}, {"items": A | SHUT}),
        ({"properties": {"x": A}}, {"properties": {"x": A | SHUT}} | SHUT),
        ({"anyOf": [A, B]}, {"anyOf": [A | SHUT, B | SHUT]}),
        ({"allOf": [A], "title": "T"}, {"allOf": [A | SHUT], "title": "T"}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": A}}, {"$ref": "#/$defs/a~1b", "$defs": {"a/b": A | SHUT}}),
        ({"additionalProperties": A}, {"additionalProperties": A | SHUT}),
    ],
    ids=str,
)
def test_closed(schema: dict[str, Any], closed: dict[str, Any]) -> None:
    before = copy.deepcopy(schema)
    assert close_objects(schema) == closed
    assert schema == before


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        A | {"additionalProperties": {"type": "string"}},
        A | {"patternProperties": {"^x": {}}},
        A | {"required": ["b"]},
        A | {"minProperties": 2},
        A | {"enum": [{"b": 1}]},
        A | {"anyOf": [B, {"required": ["a"]}]},
        {"allOf": [A, B]},
        {"allOf": [{"properties": {"x": A}}, {"properties": {"x": B}}]},
        {"allOf": [{"$ref": "#/$defs/a"}, B], "$defs": {"a": A}},
        A | {"$ref": "#/$defs/b", "$defs": {"b": B}},
        {"oneOf": [A, B]},
        {"oneOf": [{"properties": {"x": A}}, {"properties": {"x": B}}]},
        {"$ref": "#"},
    ],
    ids=str,
)
def test_open(schema: dict[str, Any]) -> None:
    assert close_objects(schema) == schema


def test_a_definition_that_is_used_in_both_ways_stays_open() -> None:
    schema = {"$defs": {"a": A}, "properties": {"x": {"$ref": "#/$defs/a"}, "y": {"allOf": [{"$ref": "#/$defs/a"}, B]}}}
    assert close_objects(schema) == schema | SHUT


def test_a_schema_that_holds_itself() -> None:
    node = {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["next"]}
    closed = close_objects({"$ref": "#/$defs/node", "$defs": {"node": node}})
    assert valid(closed, {"next": {"next": None}}) and not valid(closed, {"next": {"next": None, "more": 1}})


NAMES = st.sampled_from("ab")
LEAVES = st.sampled_from([{"type": "integer"}, {"type": "object"}, {"const": 1}, {"$ref": "#/$defs/d"}])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(NAMES, inner, max_size=2),
            "required": st.lists(NAMES, max_size=1),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "additionalProperties": inner,
        },
    ),
    max_leaves=8,
)
VALUES = st.recursive(
    st.sampled_from([1, 2, None]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(SCHEMAS, st.sampled_from([A, {"properties": {"a": {"$ref": "#/$defs/d"}}}, {"type": "integer"}]), VALUES)
def test_what_a_closed_schema_allows_is_valid(schema: dict[str, Any], definition: dict[str, Any], value: Any) -> None:
    schema = schema | {"$defs": {"d": definition}}
    assert valid(schema, value) or not valid(close_objects(schema), value)


def named_only(schema: Any, value: Any, root: Any) -> Any:
    """The value without the members that the schema does not name, where it is a plain tree of named members."""
    if "$ref" in schema:
        return named_only(root["$defs"]["d"], value, root)
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    return {
        name: named_only(schema["properties"][name], each, root)
        for name, each in value.items()
        if name in schema["properties"]
    }


PLAIN = st.recursive(
    LEAVES, lambda inner: st.fixed_dictionaries({"properties": st.dictionaries(NAMES, inner, max_size=2)})
)


@given(PLAIN, VALUES)
def test_only_members_that_are_not_named_are_ruled_out(schema: dict[str, Any], value: Any) -> None:
    schema = schema | {"$defs": {"d": A}}
    assert not valid(schema, value) or valid(close_objects(schema), named_only(schema, value, schema))
