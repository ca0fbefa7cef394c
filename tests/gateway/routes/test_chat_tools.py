"""Tools and reasoning on ``/v1/chat/completions``: what the model is shown, and what the client is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from http_for_tests import Step, events_of
from tokenizers_for_tests import byte_level
from tools_for_tests import FUNCTION, TOOLS, prompt_of, with_tools

from gateway.completion.events import CallDelta, Completed, Delta, Usage
from gateway.completion.request import Request
from gateway.protocol.answer import AnswerOptions, Envelope
from gateway.protocol.base import FieldPolicy
from gateway.protocol.chat_answer import ChatStream
from gateway.protocol.limits import Limits
from gateway.protocol.messages import AssistantMessage, check_messages

CALLS = [
    Delta(index=0, text="", tokens=[], reasoning="Hm", calls=()),
    Delta(index=0, text="So: ", tokens=[]),
    Delta(index=0, text="", tokens=[], calls=(CallDelta(0, "call_1", "f", '{"a"'),)),
    Delta(index=0, text="", tokens=[], calls=(CallDelta(0, None, None, ": 1}"), CallDelta(1, "call_2", "g", "{}"))),
    Delta(index=0, text="", tokens=[], finish_reason="tool_calls"),
]


def calls(request: Request) -> Iterator[Step]:
    for delta in CALLS:
        yield [delta]
    yield [Completed(Usage(5, 7, 0, 3))]


async def test_the_model_is_shown_the_tools() -> None:
    async with with_tools() as server:
        await server.chat(tools=[{"type": "function", "function": FUNCTION | {"strict": False}}])
        assert prompt_of(server).startswith(json.dumps(TOOLS) + "<s>user")
        await server.chat(tools=[{"type": "function", "function": {"name": "g"}}], tool_choice="auto")
        assert json.loads(prompt_of(server).partition("<s>")[0])[0]["function"] == {
            "name": "g",
            "parameters": {"type": "object", "properties": {}},
        }
        parsing = server.lifecycle.last.parsing
        assert (parsing.tool_format, parsing.single_call) == ("hermes", False)
        await server.chat(tools=TOOLS, parallel_tool_calls=False)
        parsing = server.lifecycle.last.parsing
        assert parsing.single_call and parsing.schemas == {"f": {"a": "string"}}


@pytest.mark.parametrize("fields", [{"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, {"tool_choice": "auto"}])
async def test_where_no_tool_may_be_called_the_model_sees_none(fields: dict[str, Any]) -> None:
    async with with_tools() as server:
        assert (await server.chat(**fields)).status_code == 200
        assert prompt_of(server).startswith("<s>user")
        assert server.lifecycle.last.parsing is None


async def test_a_whole_answer_with_calls() -> None:
    async with with_tools(script=calls) as server:
        body = (await server.chat(tools=TOOLS)).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "So: ",
        "reasoning_content": "Hm",
        "refusal": None,
        "annotations": [],
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"content": None}, {"content": ""}),
        ({"content": None, "reasoning_content": "Hm"}, {"content": "", "reasoning_content": "Hm"}),
        ({"reasoning": "Hm"}, {"content": "", "reasoning_content": "Hm"}),
    ],
)
def test_an_answer_that_was_cut_in_its_reasoning_can_be_sent_back(said: dict[str, Any], shown: dict[str, Any]) -> None:
    message = AssistantMessage.model_validate({"role": "assistant", **said}, context=FieldPolicy())
    check_messages([message], Limits())
    assert message.for_template() == {"role": "assistant", **shown}


@pytest.mark.parametrize("arguments", ['{"city": "P', "[1]", "Paris", '{"a": "\n"}', "\ud800"])
def test_a_call_whose_arguments_are_no_object_can_be_sent_back(arguments: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = {"role": "assistant", "content": None, "tool_calls": [call]}
    message = AssistantMessage.model_validate(body, context=FieldPolicy())
    check_messages([message], Limits())
    (shown,) = message.for_template()["tool_calls"]
    assert shown["function"]["arguments"] == arguments


async def test_content_is_null_beside_calls_alone() -> None:
    def script(request: Request) -> Iterator[Step]:
        yield [CALLS[2], CALLS[4], Completed(Usage(5, 7, 0))]

    async with with_tools(script=script) as server:
        body = (await server.chat(tools=TOOLS)).json()
    message = body["choices"][0]["message"]
    assert message["content"] is None and "reasoning_content" not in message
    assert "completion_tokens_details" not in body["usage"]


def test_a_streamed_answer_with_calls() -> None:
    envelope = Envelope(id="c", created=1, model="m", system_fingerprint="f")
    stream = ChatStream(envelope, AnswerOptions(prompts=([5],)), byte_level())
    text = stream.opening() + b"".join(stream.feed([delta]) for delta in CALLS)
    choices = [json.loads(event)["choices"][0] for event in events_of(text.decode())]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "Hm"},
        {"content": "So: "},
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
            ]
        },
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": ": 1}"}},
                {"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ]
        },
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 5 + ["tool_calls"]


async def test_reasoning_is_left_out_where_it_is_not_wanted() -> None:
    async with with_tools(script=calls) as server:
        body = (await server.chat(tools=TOOLS, include_reasoning=False)).json()
        assert "reasoning_content" not in body["choices"][0]["message"]
        assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
        assert "reasoning_content" not in (await server.chat(tools=TOOLS, include_reasoning=False, stream=True)).text


EFFORT = "{{ reasoning_effort }}{{ messages[0].content }}"
SWITCH = "{{ enable_thinking }}{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("template", "reasoning_format", "effort", "prompt"),
    [
        (EFFORT, "harmony", "high", "highHi"),
        (EFFORT, "think", "minimal", "minimalHi"),
        (EFFORT, None, None, "Hi"),
        (SWITCH, "think", "none", "FalseHi"),
        (SWITCH, "think", None, "Hi"),
    ],
)
async def test_the_template_is_told_the_effort(
    template: str, reasoning_format: str | None, effort: str | None, prompt: str
) -> None:
    async with with_tools(template=template, reasoning_format=reasoning_format) as server:
        assert (await server.chat(reasoning_effort=effort)).status_code == 200
        assert prompt_of(server) == prompt


@pytest.mark.parametrize(
    ("template", "fields", "code"),
    [
        (EFFORT, {"reasoning_effort": "minimal"}, "unsupported_parameter"),
        (SWITCH, {"reasoning_effort": "low"}, "unsupported_parameter"),
        ("{{ messages[0].content }}", {"reasoning_effort": "none"}, "unsupported_parameter"),
        (EFFORT, {"reasoning_effort": "much"}, "invalid_value"),
        (
            SWITCH,
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "invalid_value",
        ),
    ],
)
async def test_an_effort_that_cannot_be_told_is_refused(template: str, fields: dict[str, Any], code: str) -> None:
    async with with_tools(template=template, reasoning_format="harmony") as server:
        error = (await server.chat(**fields)).json()["error"]
        assert (error["param"], error["code"]) == ("reasoning_effort", code)


@pytest.mark.parametrize(
    ("template", "reasoning_format", "efforts"),
    [
        (EFFORT, "harmony", ["low", "medium", "high"]),
        (EFFORT, "think", ["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
        (SWITCH, "think", ["none"]),
        ("{{ messages[0].content }}", None, []),
    ],
)
async def test_the_model_says_which_efforts_it_may_be_told(
    template: str, reasoning_format: str | None, efforts: list[str]
) -> None:
    async with with_tools(template=template, reasoning_format=reasoning_format) as server:
        model = (await server.client.get("/v1/models")).json()["data"][0]
        assert model["reasoning_efforts"] == efforts
        for effort in efforts:
            assert (await server.chat(reasoning_effort=effort)).status_code == 200


async def test_what_has_waited_is_sent_together() -> None:
    async with with_tools(script=calls) as server:
        *events, done = events_of((await server.chat(tools=TOOLS, stream=True)).text)
    assert done == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    pieces = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    assert "".join(piece["arguments"] for piece in pieces) == '{"a": 1}{}'
    assert [piece["name"] for piece in pieces if "name" in piece] == ["f", "g"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"template": "{{ messages }}"}, "chat template does not show tools"),
        ({"tool_format": None}, "--tool-call-format"),
    ],
)
async def test_a_model_that_cannot_call_tools(changes: dict[str, Any], why: str) -> None:
    async with with_tools(**changes) as server:
        response = await server.chat(tools=TOOLS)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, "tools", "unsupported_parameter")
        assert why in error["message"]
        assert (await server.chat(tools=TOOLS, tool_choice="none")).status_code == 200


async def test_results_name_a_call_before_them() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "a", "content": "3"}
    read = call | {
        "function": call["function"] | {"parsed_arguments": {"a": 1}}
    }  # as the client's helpers send it back
    async with with_tools() as server:
        assert (await server.chat(messages=[asked, result, result])).status_code == 200
        assert (await server.chat(messages=[asked | {"parsed": 3, "tool_calls": [read]}, result])).status_code == 200
        # litellm sends its answers back like this.
        noted = asked | {"provider_specific_fields": {"refusal": None}, "annotations": [], "function_call": None}
        assert (await server.chat(messages=[noted, result])).status_code == 200
        for wrong in ([result, asked], [asked, result | {"tool_call_id": "b"}]):
            response = await server.chat(messages=wrong)
            at = wrong.index(next(each for each in wrong if each["role"] == "tool"))
            assert response.json()["error"]["param"] == f"messages[{at}].tool_call_id"


async def test_whether_the_answer_begins_within_the_reasoning() -> None:
    async with with_tools(reasoning_format="think") as server:
        await server.chat()
        assert not server.lifecycle.last.parsing.in_reasoning
        assert server.lifecycle.last.parsing.tool_format is None
        await server.chat(chat_template_kwargs={"think": True})
        assert server.lifecycle.last.parsing.in_reasoning
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>Well"}]
        await server.chat(messages=said, continue_final_message=True)
        assert server.lifecycle.last.parsing.in_reasoning
