"""Tools on ``/v1/chat/completions``: what of their calls is enforced, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers_for_tests import byte_level
from tools_for_tests import BRIEF, FUNCTION, TOOLS, prompt_of, with_tools

from engine.sampling_params import ReasoningLimit
from gateway.protocol.limits import Limits

STRICT = [{"type": "function", "function": FUNCTION | {"strict": True}}]
NAMED = {"type": "function", "function": {"name": "f"}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


ENFORCED = [
    ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": NAMED}, "tool_choice"),
    ({"tools": STRICT}, "tools[0].function.strict"),
]


@pytest.mark.parametrize(("fields", "param"), ENFORCED)
async def test_what_is_enforced_is_a_grammar(fields: dict[str, Any], param: str) -> None:
    async with with_tools() as server:
        assert (await server.chat(**fields)).status_code == 200
        grammar = server.lifecycle.last.grammar
        assert grammar.kind == "lark" and "tool_call" in grammar.source
        assert ("TEXT" in grammar.source) is (fields["tools"] is STRICT), "strict alone leaves the model free to answer"
        for field in ({"min_tokens": 3, "max_tokens": 5}, {"ignore_eos": True}):
            error = (await server.chat(**fields, **field)).json()["error"]
            assert error["param"] == next(iter(field)) and param in error["message"]
        await server.chat(tools=TOOLS)
        assert server.lifecycle.last.grammar is None


ANY_OBJECT = {"type": "json_object"}
UUID_FUNCTION: dict[str, Any] = {
    "name": "f",
    "strict": True,
    "parameters": {"type": "object", "properties": {"at": {"type": "string", "format": "uuid"}}},
}
UUID = [{"type": "function", "function": UUID_FUNCTION}]


@pytest.mark.parametrize(
    ("state", "fields", "param"),
    [
        ({"tool_format": "llama3_json"}, {"tools": TOOLS, "response_format": ANY_OBJECT}, "response_format"),
        (
            {"tool_format": "pythonic"},
            {"tools": TOOLS, "structured_outputs": {"choice": ["no", " [f()]"]}},
            "structured_outputs.choice",
        ),
        (
            {"tool_format": "pythonic"},
            {"tools": TOOLS, "structured_outputs": {"grammar": 'start: "a"'}},
            "structured_outputs.grammar",
        ),
        ({"tool_format": "glm"}, {"tools": UUID}, "tools[0].function.parameters.properties.at.format"),
    ],
)
async def test_what_cannot_be_enforced_is_refused(state: dict[str, Any], fields: dict[str, Any], param: str) -> None:
    async with with_tools(**state) as server:
        error = (await server.chat(**fields)).json()["error"]
        assert (error["param"], error["code"]) == (param, "unsupported_parameter")


async def test_a_keyword_that_cannot_be_enforced_matters_to_strict_alone() -> None:
    function = {"name": "f", "parameters": {"type": "object", "not": {}}}
    tools = [{"type": "function", "function": function}]
    async with with_tools() as server:
        assert (await server.chat(tools=tools, tool_choice="required")).status_code == 200
        assert '"not"' not in server.lifecycle.last.grammar.source
        function["strict"] = True
        error = (await server.chat(tools=tools)).json()["error"]
        assert (error["param"], error["code"]) == ("tools[0].function.parameters.not", "unsupported_keyword")


@pytest.mark.parametrize("tool_format", ["hermes", "glm"])
async def test_a_schema_that_does_not_compile_matters_to_strict_alone(tool_format: str) -> None:
    functions = [
        {"name": "f", "parameters": {"properties": {"a": {"type": "null"}}}},
        {"name": "g", "parameters": {"properties": {"b": {"enum": ["refuse"]}}}},
    ]
    tools = [{"type": "function", "function": function} for function in functions]
    async with with_tools(tool_format=tool_format, template=BRIEF) as server:
        assert (await server.chat(tools=tools, tool_choice="required")).status_code == 200
        source = server.lifecycle.last.grammar.source
        assert '"type":"null"' in source and '"refuse"' not in source, "the other is held to its schema all the same"
        functions[1]["strict"] = True
        for choice in ("auto", "required"):
            error = (await server.chat(tools=tools, tool_choice=choice)).json()["error"]
            assert (error["param"], error["code"]) == ("tools[1].function.parameters", "invalid_grammar")


async def test_what_a_format_cannot_spell_matters_to_strict_alone() -> None:
    loose = [{"type": "function", "function": UUID_FUNCTION | {"strict": False}}]
    async with with_tools(tool_format="glm") as server:
        assert (await server.chat(tools=loose, tool_choice="required")).status_code == 200
        assert "uuid" not in server.lifecycle.last.grammar.source
    async with with_tools() as server:
        assert (await server.chat(tools=UUID)).status_code == 200
        assert "uuid" in server.lifecycle.last.grammar.source


TWO = [*TOOLS, {"type": "function", "function": {"name": "g"}}]


async def test_some_of_the_tools_are_allowed() -> None:
    async with with_tools(template=BRIEF) as server:
        for mode in ("auto", "required"):
            assert (await server.chat(tools=TWO, tool_choice=allowed(mode, "g"))).status_code == 200
            assert prompt_of(server).startswith("fg"), "all are shown"
            source = server.lifecycle.last.grammar.source
            assert 'g\\", \\"arguments' in source and 'f\\", \\"arguments' not in source
            assert ("TEXT" in source) is (mode == "auto")


@pytest.mark.parametrize(
    ("choice", "param", "code"),
    [
        (allowed("auto", "h"), "tool_choice.allowed_tools.tools[0].function.name", "invalid_value"),
        (allowed("none", "f"), "tool_choice.allowed_tools.mode", "invalid_value"),
        (allowed("auto"), "tool_choice.allowed_tools.tools", "array_below_min_length"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools", "missing_required_parameter"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "mcp", "server_label": "x"}]},
            },
            "tool_choice.allowed_tools.tools[0].type",
            "unsupported_parameter",
        ),
    ],
)
async def test_wrong_allowed_tools(choice: dict[str, Any], param: str, code: str) -> None:
    async with with_tools() as server:
        error = (await server.chat(tools=TOOLS, tool_choice=choice)).json()["error"]
        assert (error["param"], error["code"]) == (param, code)


async def test_an_answer_is_calls_or_of_the_form_that_is_asked_for() -> None:
    async with with_tools() as server:
        for form in (
            {"response_format": ANY_OBJECT},
            {"structured_outputs": {"regex": "a+"}},
            {"structured_outputs": {"choice": ["a"]}},
            {"structured_outputs": {"grammar": 'start: "a"'}},
        ):
            assert (await server.chat(tools=TOOLS, **form)).status_code == 200
            source = server.lifecycle.last.grammar.source
            assert "(calls |  answer)" in source and "tool_call" in source
            assert server.lifecycle.last.parsing.calls_or_form
            for choice in ("required", NAMED):
                assert (await server.chat(tools=TOOLS, tool_choice=choice, **form)).status_code == 200
                assert "answer" not in server.lifecycle.last.grammar.source, "tools win"
                assert not server.lifecycle.last.parsing.calls_or_form
            await server.chat(tools=TOOLS, tool_choice="none", **form)
            assert "tool_call" not in server.lifecycle.last.grammar.source
        error = (await server.chat(tools=TOOLS, structured_outputs={"regex": "refuse"})).json()["error"]
        assert error["param"] == "structured_outputs.regex"
        await server.chat(tools=TOOLS, response_format={"type": "text"})
        assert server.lifecycle.last.grammar is None and not server.lifecycle.last.parsing.calls_or_form


async def test_schemas_beyond_the_limit_of_grammars_are_refused() -> None:
    async with with_tools(limits=Limits(max_tool_grammar=100)) as server:
        error = (await server.chat(tools=TOOLS, tool_choice="required")).json()["error"]
        assert (error["param"], error["code"]) == ("tools", "string_above_max_length")
        assert (await server.chat(tools=TOOLS)).status_code == 200, "nothing is compiled where nothing is enforced"


async def test_reasoning_comes_before_what_is_enforced() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    begun = {"chat_template_kwargs": {"think": True}}
    async with with_tools(reasoning_format="think") as server:
        for fields in (
            {"response_format": schema},
            {"structured_outputs": {"regex": "a+"}},
            ENFORCED[0][0],
            ENFORCED[2][0],
        ):
            await server.chat(**fields)
            assert "start: reasoning? " in server.lifecycle.last.grammar.source
            await server.chat(**fields, **begun)
            assert "start: reasoning " in server.lifecycle.last.grammar.source
        lark = {"structured_outputs": {"grammar": 'start: "a"'}}
        assert (await server.chat(**lark)).status_code == 200
        assert (await server.chat(**lark, **begun)).status_code == 200
        assert server.lifecycle.last.grammar.source.startswith("start: reasoning ")


async def test_a_thinking_budget_is_a_limit_for_the_engine() -> None:
    end, begin = byte_level().token_id("<tool call>"), byte_level().token_id("<think>")
    async with with_tools(reasoning_format="think") as server:
        error = (await server.chat(thinking_token_budget=7)).json()["error"]
        assert (error["param"], error["code"]) == ("thinking_token_budget", "unsupported_parameter"), (
            "no </think> token"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.completion.formats.think.REASONING.end", "<tool call>", raising=False)
            await server.chat(thinking_token_budget=7)
            assert server.lifecycle.last.params[0].reasoning_limit == ReasoningLimit(7, end, begin)
            await server.chat(thinking_token_budget=0, chat_template_kwargs={"think": True})
            assert server.lifecycle.last.params[0].reasoning_limit == ReasoningLimit(0, end, None)
            await server.chat()
            assert server.lifecycle.last.params[0].reasoning_limit is None
    async with with_tools() as server:
        assert (await server.chat(thinking_token_budget=7)).json()["error"]["param"] == "thinking_token_budget"
        assert (await server.chat(thinking_token_budget=-1)).json()["error"]["code"] == "integer_below_min_value"
