"""One table of what is refused: the request, and the status, parameter and code that answer it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from http_for_tests import CONTEXT, serving

HI = {"role": "user", "content": "Hi"}


def said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def part(**members: Any) -> dict[str, Any]:
    return said([members])


def called(**changes: Any) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {"messages": [{"role": "assistant", "tool_calls": [call | changes]}]}


def offered(*functions: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": each} for each in functions or [{"name": "f"}]]}


def chosen(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def streamed(**options: Any) -> dict[str, Any]:
    return {"stream": True, "stream_options": options}


def refused(param: str) -> tuple[str, str]:
    return param, "unsupported_parameter"


BOTH: list[tuple[dict[str, Any], str | None, str]] = [
    # types
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": [1]}, "temperature", "invalid_type"),
    ({"n": "7"}, "n", "invalid_type"),
    ({"n": True}, "n", "invalid_type"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"max_tokens": "7"}, "max_tokens", "invalid_type"),
    ({"max_tokens": 7.5}, "max_tokens", "invalid_type"),
    ({"seed": "1"}, "seed", "invalid_type"),
    ({"stream": 1}, "stream", "invalid_type"),
    ({"stream": "true"}, "stream", "invalid_type"),
    ({"ignore_eos": 0}, "ignore_eos", "invalid_type"),
    ({"stop": 3}, "stop", "invalid_type"),
    ({"stop": {"a": 1}}, "stop", "invalid_type"),
    ({"stop": ["a", 3]}, "stop[1]", "invalid_type"),
    ({"stop": [None]}, "stop[0]", "invalid_type"),
    ({"stop_token_ids": [1, "2"]}, "stop_token_ids[1]", "invalid_type"),
    ({"logit_bias": []}, "logit_bias", "invalid_type"),
    ({"logit_bias": {"1": "2"}}, "logit_bias.1", "invalid_type"),
    ({"model": 3}, "model", "invalid_type"),
    ({"user": 3}, "user", "invalid_type"),
    ({"stream": True, "stream_options": True}, "stream_options", "invalid_type"),
    (streamed(include_usage=1), "stream_options.include_usage", "invalid_type"),
    (streamed(continuous_usage_stats=True), "stream_options.continuous_usage_stats", "invalid_value"),
    # ranges
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"top_p": -1}, "top_p", "integer_below_min_value"),
    ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
    ({"top_k": -2}, "top_k", "integer_below_min_value"),
    ({"top_k": 10**30}, "top_k", "integer_above_max_value"),
    ({"min_p": 1.1}, "min_p", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 17}, "n", "integer_above_max_value"),
    ({"n": 10**100}, "n", "integer_above_max_value"),
    ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ({"min_tokens": -1}, "min_tokens", "integer_below_min_value"),
    ({"seed": 2**64}, "seed", "integer_above_max_value"),
    ({"seed": -(2**63) - 1}, "seed", "integer_below_min_value"),
    ({"presence_penalty": 2.5}, "presence_penalty", "decimal_above_max_value"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "decimal_below_min_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "integer_below_min_value"),
    ({"repetition_penalty": 1e300}, "repetition_penalty", "decimal_above_max_value"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "integer_above_max_value"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"²": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "array_above_max_length"),
    ({"stop_token_ids": [1, 99999]}, "stop_token_ids[1]", "invalid_value"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "integer_below_min_value"),
    ({"stop_token_ids": [2**40]}, "stop_token_ids[0]", "integer_above_max_value"),
    ({"stop_token_ids": list(range(17))}, "stop_token_ids", "array_above_max_length"),
    ({"stop": ""}, "stop", "string_below_min_length"),
    ({"stop": [""]}, "stop[0]", "string_below_min_length"),
    ({"stop": ["a"] * 17}, "stop", "array_above_max_length"),
    ({"stop": "a" * 257}, "stop", "string_above_max_length"),
    # combinations
    ({"max_tokens": CONTEXT}, "max_tokens", "context_length_exceeded"),
    ({"max_tokens": 10**100}, "max_tokens", "context_length_exceeded"),
    ({"max_tokens": 5, "min_tokens": 6}, "min_tokens", "integer_above_max_value"),
    ({"min_tokens": CONTEXT}, "min_tokens", "integer_above_max_value"),
    ({"stream_options": {}}, "stream_options", "invalid_value"),
    # unknown and unsupported
    ({"foo": None}, "foo", "unknown_parameter"),
    (streamed(foo=1), "stream_options.foo", "unknown_parameter"),
    (streamed(include_obfuscation=True), *refused("stream_options.include_obfuscation")),
    ({"guided_json": {}}, *refused("guided_json")),
    ({"use_beam_search": True}, *refused("use_beam_search")),
    ({"priority": 1}, *refused("priority")),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"store": True}, *refused("store")),
    ({"store": 0}, *refused("store")),
]

CHAT: list[tuple[dict[str, Any], str | None, str]] = [
    ({"messages": None}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "array_below_min_length"),
    ({"messages": "Hi"}, "messages", "invalid_type"),
    ({"messages": {}}, "messages", "invalid_type"),
    ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [HI, None]}, "messages[1]", "invalid_type"),
    ({"messages": [{}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": 3, "content": ""}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "wizard", "content": ""}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "function", "name": "f", "content": ""}]}, *refused("messages[0].role")),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    (said(None), "messages[0].content", "invalid_type"),
    (said(3), "messages[0].content", "invalid_type"),
    (said([]), "messages[0].content", "array_below_min_length"),
    (said(["a"]), "messages[0].content[0]", "invalid_type"),
    (part(text="a"), "messages[0].content[0].type", "missing_required_parameter"),
    (part(type="text"), "messages[0].content[0].text", "missing_required_parameter"),
    (part(type="smell", text="a"), "messages[0].content[0].type", "invalid_value"),
    (part(type="image_url", image_url={"url": "x"}), *refused("messages[0].content[0].type")),
    (part(type="input_audio", input_audio={}), *refused("messages[0].content[0].type")),
    (part(type="file", file={}), *refused("messages[0].content[0].type")),
    ({"messages": [HI | {"foo": 1}]}, "messages[0].foo", "unknown_parameter"),
    ({"messages": [HI | {"tool_calls": []}]}, "messages[0].tool_calls", "unknown_parameter"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "assistant", "content": "", "refusal": "no"}]}, *refused("messages[0].refusal")),
    (called(type="custom", custom={}), *refused("messages[0].tool_calls[0].type")),
    (
        called(function={"name": "f", "arguments": "[" * 10_000}),
        "messages[0].tool_calls[0].function.arguments",
        "too_deep",
    ),
    (called(function={"name": "f", "arguments": {}}), "messages[0].tool_calls[0].function.arguments", "invalid_type"),
    ({"messages": [{"role": "tool", "content": "3"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
    (
        {"messages": [{"role": "tool", "content": "3", "tool_call_id": "a"}]},
        "messages[0].tool_call_id",
        "invalid_value",
    ),
    (said("a " * 500), "messages", "context_length_exceeded"),
    (said("a" * 2**20), "messages", "context_length_exceeded"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_completion_tokens": CONTEXT}, "max_completion_tokens", "context_length_exceeded"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
    ({"logprobs": 3}, "logprobs", "invalid_type"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"top_logprobs": 1}, "top_logprobs", "invalid_value"),
    (offered(), *refused("tools")),
    (offered({"name": "f"}, {"name": "f"}), "tools[1].function.name", "invalid_value"),
    (offered({"name": "f g"}), "tools[0].function.name", "invalid_value"),
    (offered({"name": ""}), "tools[0].function.name", "invalid_value"),
    (offered({"name": "f" * 65}), "tools[0].function.name", "invalid_value"),
    (offered({}), "tools[0].function.name", "missing_required_parameter"),
    (offered({"name": "f", "foo": 1}), "tools[0].function.foo", "unknown_parameter"),
    (offered({"name": "f", "description": 3}), "tools[0].function.description", "invalid_type"),
    (offered({"name": "f", "parameters": "{}"}), "tools[0].function.parameters", "invalid_type"),
    (offered({"name": "f", "parameters": {"type": "array"}}), "tools[0].function.parameters.type", "invalid_value"),
    (
        offered({"name": "f", "parameters": {"properties": []}}),
        "tools[0].function.parameters.properties",
        "invalid_value",
    ),
    (
        offered({"name": "f", "parameters": {"description": "a" * 70_000}}),
        "tools[0].function.parameters",
        "string_above_max_length",
    ),
    (offered(*[{"name": f"f{n}"} for n in range(129)]), "tools", "array_above_max_length"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, *refused("tools[0].type")),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    ({"tool_choice": 3}, "tool_choice", "invalid_type"),
    ({"tool_choice": {"type": "custom"}}, *refused("tool_choice.type")),
    (offered() | {"tool_choice": chosen("g")}, "tool_choice.function.name", "invalid_value"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
    ({"function_call": {"name": "f"}}, *refused("function_call")),
    ({"functions": [{}]}, *refused("functions")),
    ({"modalities": ["text", "audio"]}, *refused("modalities")),
    ({"audio": {}}, *refused("audio")),
    ({"prediction": {}}, *refused("prediction")),
    ({"web_search_options": {}}, *refused("web_search_options")),
    ({"reasoning_effort": "high"}, *refused("reasoning_effort")),
    ({"service_tier": "flex"}, *refused("service_tier")),
    ({"chat_template": "{{ 1 }}"}, *refused("chat_template")),
    ({"chat_template_kwargs": {"messages": []}}, *refused("chat_template_kwargs.messages")),
    ({"chat_template_kwargs": {"bos_token": "x"}}, *refused("chat_template_kwargs.bos_token")),
    ({"chat_template_kwargs": {"thinking": True}}, *refused("chat_template_kwargs.thinking")),
    ({"chat_template_kwargs": 3}, "chat_template_kwargs", "invalid_type"),
    ({"best_of": 2}, *refused("best_of")),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message", "invalid_value"),
    ({"continue_final_message": True, "messages": [HI | {"content": ""}]}, "continue_final_message", "invalid_value"),
]

COMPLETIONS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"prompt": None}, "prompt", "invalid_type"),
    ({"prompt": 3}, "prompt", "invalid_type"),
    ({"prompt": {}}, "prompt", "invalid_type"),
    ({"prompt": []}, "prompt", "array_below_min_length"),
    ({"prompt": [[]]}, "prompt[0]", "array_below_min_length"),
    ({"prompt": ["a", 3]}, "prompt[1]", "invalid_type"),
    ({"prompt": [3, "a"]}, "prompt[1]", "invalid_type"),
    ({"prompt": [3, True]}, "prompt[1]", "invalid_type"),
    ({"prompt": [[3], 4]}, "prompt[1]", "invalid_type"),
    ({"prompt": [[3], [4.5]]}, "prompt[1][0]", "invalid_type"),
    ({"prompt": [None]}, "prompt[0]", "invalid_type"),
    ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
    ({"prompt": [99999]}, "prompt", "invalid_value"),
    ({"prompt": [5, 10**30]}, "prompt[1]", "invalid_value"),
    ({"prompt": ""}, "prompt", "empty_prompt"),
    ({"prompt": ["a", ""]}, "prompt[1]", "empty_prompt"),
    ({"prompt": [""]}, "prompt[0]", "empty_prompt"),
    ({"prompt": [[5], [5, 99999]]}, "prompt[1]", "invalid_value"),
    ({"prompt": [[5], [5] * CONTEXT]}, "prompt[1]", "context_length_exceeded"),
    ({"prompt": ["a"] * 65}, "prompt", "array_above_max_length"),
    ({"prompt": [[1]] * 65}, "prompt", "array_above_max_length"),
    ({"prompt": [5] * CONTEXT}, "prompt", "context_length_exceeded"),
    ({"prompt": ["a", "a " * 500]}, "prompt[1]", "context_length_exceeded"),
    ({"prompt": ["a", "a" * 2**20]}, "prompt[1]", "context_length_exceeded"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"prompt": [5] * (CONTEXT - 1), "max_tokens": 2}, "max_tokens", "context_length_exceeded"),
    ({"echo": True, "max_tokens": 0, "min_tokens": 1}, "min_tokens", "integer_above_max_value"),
    ({"logprobs": True}, "logprobs", "invalid_type"),
    ({"logprobs": -1}, "logprobs", "integer_below_min_value"),
    ({"logprobs": 21}, "logprobs", "integer_above_max_value"),
    ({"best_of": 2, "stream": True}, *refused("best_of")),
    ({"best_of": 2, "n": 3}, "best_of", "integer_below_min_value"),
    ({"best_of": 17}, "best_of", "integer_above_max_value"),
    ({"suffix": "."}, *refused("suffix")),
    ({"suffix": ".", "echo": True}, *refused("suffix")),
    ({"suffix": ".", "prompt": [5]}, *refused("suffix")),
    ({"suffix": 1}, "suffix", "invalid_type"),
    ({"messages": [HI]}, "messages", "unknown_parameter"),
    ({"max_completion_tokens": 3}, "max_completion_tokens", "unknown_parameter"),
]


def check(response, param, code):
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error["message"]
    assert error["type"] == "invalid_request_error"
    assert 0 < len(error["message"]) < 500


@pytest.mark.parametrize(("fields", "param", "code"), BOTH + CHAT)
async def test_chat(fields, param, code):
    async with serving() as server:
        check(await server.chat(**fields), param, code)
        assert server.lifecycle.requests == []


@pytest.mark.parametrize(("fields", "param", "code"), BOTH + COMPLETIONS)
async def test_completions(fields, param, code):
    async with serving() as server:
        check(await server.complete(**{"prompt": "Hi"} | fields), param, code)
        assert server.lifecycle.requests == []


async def test_the_refused_are_counted_by_reason():
    async with serving() as server:
        await server.chat(foo=1)
        await server.chat(store=True)
        await server.chat(n=0)
        await server.chat(max_tokens=10**6)
        await server.chat(model="other")
        assert [(record.error_type, record.reason) for record in server.records] == [
            ("validation", "unknown_field"),
            ("not_implemented", "unsupported_field"),
            ("validation", "invalid_request"),
            ("validation", "context_length"),
            ("not_found", "not_found"),
        ]


async def test_numbers_that_do_not_fit_are_named_as_openai_names_them():
    async with serving() as server:
        message = (await server.complete([5] * 190, max_tokens=20)).json()["error"]["message"]
        assert message == (
            f"This model's maximum context length is {CONTEXT} tokens. However, you requested 210 tokens (190 in the "
            "prompt, 20 in the completion). Please reduce the length of the prompt or completion."
        )


async def test_not_a_number_is_refused():
    async with serving() as server:
        for text in ("NaN", "Infinity", "-Infinity"):
            assert math.isnan(float(text)) or math.isinf(float(text))
            content = f'{{"messages":[{{"role":"user","content":"Hi"}}],"temperature":{text}}}'
            headers = {"content-type": "application/json"}
            response = await server.client.post("/v1/chat/completions", content=content, headers=headers)
            check(response, "temperature", "invalid_json")


async def test_only_json_is_read():
    async with serving() as server:
        for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
            response = await server.client.post("/v1/completions", content=b'{"prompt":"Hi"}', headers=headers)
            assert response.status_code == 415
            assert response.json()["error"]["code"] == "unsupported_media_type"
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        response = await server.client.post("/v1/completions", content=b'{"prompt":"Hi"}', headers=headers)
        assert response.status_code == 200
