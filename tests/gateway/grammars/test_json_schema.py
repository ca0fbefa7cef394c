"""Schemas of requests: what is enforced passes, what is not is refused by its place."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from gateway.errors import InvalidRequest
from gateway.grammars.json_schema import ANNOTATIONS, ENFORCED, KNOWN, check_schema


def refused(schema: dict[str, Any], max_depth: int = 24) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        check_schema(schema, "schema", max_depth)
    return raised.value


class Part(BaseModel):
    size: float
    more: list[Part] = []


class Whole(BaseModel):
    name: str
    parts: dict[str, Part] | None = None


def test_what_pydantic_makes_passes():
    check_schema(Whole.model_json_schema(), "schema", 24)


def test_values_are_not_taken_for_schemas():
    check_schema({"const": {"not": 1}, "enum": [{"if": 2}], "default": {"foo": 1}, "x-order": 3}, "schema", 1)
    check_schema({"properties": {"not": {"type": "string"}}, "required": ["not"]}, "schema", 2)


@pytest.mark.parametrize(
    ("schema", "param", "said"),
    [
        ({"not": {}}, "schema.not", "'not' cannot be enforced"),
        ({"properties": {"a": {"uniqueItems": True}}}, "schema.properties.a.uniqueItems", "cannot be enforced"),
        ({"items": {"anyOf": [{}, {"if": {}}]}}, "schema.items.anyOf[1].if", "cannot be enforced"),
        ({"$defs": {"a": {"minlength": 1}}}, "schema.$defs.a.minlength", "did you mean 'minLength'?"),
        ({"zzz": 1}, "schema.zzz", "would be passed over"),
        ({"x-guidance": {"lenient": True}}, "schema.x-guidance", "cannot be enforced"),
        ({"additionalProperties": 3}, "schema.additionalProperties", "an object or a boolean"),
        ({"$ref": "https://example.com/a"}, "schema.$ref", "within the schema"),
        ({"$ref": "#/nothing/there"}, "schema.$ref", "nothing at '#/nothing/there'"),
        ({"$ref": "#/x-a/b", "x-a": {"b": {"zzz": 1}}}, "schema.x-a.b.zzz", "would be passed over"),
        ({"items": {"$ref": "#/default"}, "default": {"not": {}}}, "schema.default.not", "cannot be enforced"),
        ({"$ref": "#/examples/1", "examples": [{}, {"if": {}}]}, "schema.examples.1.if", "cannot be enforced"),
        ({"$ref": "#/x-a/b%20~1~0c", "x-a": {"b /~c": {"zzz": 1}}}, "schema.x-a.b%20~1~0c.zzz", "not known"),
        ({"$ref": "#/x-a", "x-a": {"$ref": "#/x-b"}, "x-b": {"zzz": 1}}, "schema.x-b.zzz", "not known"),
        ({"$ref": "#/x-a", "x-a": 3}, "schema.x-a", "an object or a boolean"),
        ({"$defs": {"a": {"$id": "http://a", "$ref": "#/b"}}}, "schema.$defs.a.$id", "as a whole"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "items": {"id": "a"}}, "schema.items.id", "as a whole"),
    ],
)
def test_what_is_not_enforced_is_refused_by_its_place(schema, param, said):
    error = refused(schema)
    assert error.param == param and said in error.message and param in error.message


def test_references_may_go_round_and_to_any_schema():
    part = {"id": "A", "properties": {"id": {"$ref": "#"}, "b": {"$ref": "#/$defs/a"}}}
    tree = {"$id": "http://a", "$defs": {"a": part}}
    check_schema(tree | {"$ref": "#/$defs/a"}, "schema", 4)
    check_schema({"properties": {"a": True, "b": {"$ref": "#/properties/a"}}}, "schema", 3)


def test_depth_is_limited():
    schema: dict[str, Any] = {}
    for _ in range(9):
        schema = {"items": schema}
    check_schema(schema, "schema", 10)
    assert "9 levels deep here (--max-schema-depth), and this is level 10" in refused(schema, 9).message


def test_keywords_are_of_one_kind():
    assert not ENFORCED & ANNOTATIONS and not KNOWN & (ENFORCED | ANNOTATIONS)
