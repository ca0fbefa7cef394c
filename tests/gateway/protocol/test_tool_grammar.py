"""What the schema of a tool's parameters comes to where its calls are enforced."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.grammar import Grammar
from gateway.completion.formats import tool_formats
from gateway.completion.parser import Parsing
from gateway.errors import APIError
from gateway.protocol.constrained import Wanted
from gateway.protocol.limits import Limits
from gateway.protocol.tool_grammar import ANY_ARGUMENTS, NO_ARGUMENTS, wanted_calls
from gateway.protocol.tools import Tool

EMPTY: dict[str, Any] = {"type": "object", "properties": {}}


def schema(parameters: dict[str, Any] | None) -> dict[str, Any]:
    tool = Tool.model_validate({"type": "function", "function": {"name": "f", "parameters": parameters}})
    parsing = Parsing(tool_format="hermes")
    wanted = wanted_calls([tool], "required", parsing, None, template="", token_of=lambda _: None, limits=Limits())
    assert wanted is not None
    return wanted.tools[0].function.schema


@pytest.mark.parametrize(
    "parameters", [None, {}, EMPTY, {**EMPTY, "required": []}, {**EMPTY, "title": "F", "description": "none"}], ids=str
)
def test_a_function_without_parameters_is_given_none(parameters: dict[str, Any] | None) -> None:
    assert schema(parameters).items() >= NO_ARGUMENTS.items()


@pytest.mark.parametrize(
    "parameters",
    [ANY_ARGUMENTS, {**EMPTY, "additionalProperties": True}, {**EMPTY, "minProperties": 1}],
    ids=str,
)
def test_any_object_is_another_thing(parameters: dict[str, Any]) -> None:
    assert schema(parameters) == ANY_ARGUMENTS | parameters


KEYWORDS = (
    *("type", "properties", "required", "additionalProperties", "patternProperties", "items", "enum", "const", "$ref"),
    *("pattern", "format", "minLength", "maxLength", "anyOf", "allOf", "$defs", "prefixItems"),
)
words = st.sampled_from(["string", "object", "a", "b c", "^a|b$", "#/$defs/a", "[", ""])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda each: st.lists(each, max_size=2) | st.dictionaries(st.sampled_from(KEYWORDS) | words, each, max_size=3),
    max_leaves=12,
)


@given(
    parameters=st.dictionaries(st.sampled_from(KEYWORDS[1:]), values, max_size=3),
    strict=st.booleans(),
    name=st.sampled_from(sorted(tool_formats())),
    choice=st.sampled_from(["auto", "required"]),
)
@example(parameters={"required": [[1]]}, strict=True, name="glm", choice="required")
@example(parameters={"properties": {"a": {"type": "string", "enum": 1}}}, strict=False, name="glm", choice="required")
@example(parameters={"properties": {"a": {"allOf": 1, "pattern": ""}}}, strict=True, name="harmony", choice="auto")
async def test_any_schema_is_enforced_or_refused(
    parameters: dict[str, Any], strict: bool, name: str, choice: str
) -> None:
    function = {"name": "f", "parameters": parameters, "strict": strict}
    tool = Tool.model_validate({"type": "function", "function": function})

    async def accept(wanted: Wanted) -> Grammar:
        return Grammar("lark", wanted.trial.source)

    parsing = Parsing(tool_format=name)
    try:
        wanted = wanted_calls([tool], choice, parsing, None, template="", token_of=lambda _: None, limits=Limits())
        assert wanted is None or (await wanted.accepted(accept)).source
    except APIError as error:
        assert error.param is not None and (strict or error.param == "tools")
