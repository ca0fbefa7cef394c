"""What the schema of a tool's parameters comes to where its calls are enforced."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.completion.parser import Parsing
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
