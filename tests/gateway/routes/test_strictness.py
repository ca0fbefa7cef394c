"""What holds for every route that takes a body: nothing is ignored, and nothing but a 4xx comes of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_for_tests import TEMPLATE, serving
from tokenizers_for_tests import byte_level

from gateway.chat_template import ChatTemplate
from gateway.prompt import Prompts
from gateway.protocol.limits import Limits
from gateway.settings import ServeSettings

HI = [{"role": "user", "content": "Hi"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/chat/completions/input_tokens": {"messages": HI},
    "/v1/chat/completions/render": {"messages": HI},
    "/v1/completions": {"prompt": "Hi"},
    "/generation": {"prompt": "Hi", "max_tokens": 2},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [5]},
}
CHATS = [path for path, body in ROUTES.items() if "messages" in body] + ["/tokenize"]
HUGE = 10**400
JSON = {"content-type": "application/json"}
RAW = {
    "nothing": b"",
    "no JSON": b"{",
    "an array": b"[]",
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": Infinity}',
    "a lone surrogate": b'{"prompt": "\\ud800", "messages": "\\udfff", "tokens": "\\ud800"}',
    "no UTF-8": b'{"prompt": "\xff"}',
    "too deep": b'{"prompt": ' + b"[" * 128 + b"]" * 128 + b"}",
    "too many parts": b'{"prompt": [' + b"[1]," * 100_001 + b"[1]]}",
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
async def test_a_body_that_is_no_request_is_a_400(path, raw):
    async with serving() as server:
        response = await server.client.post(path, content=raw, headers=JSON)
        assert response.status_code == 400
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
        assert len(response.text) < 1000
        assert not server.lifecycle.requests


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("name", "value"),
    [("no_such_field", 1), ("model", 7), ("model", ["a"]), ("chat_template", "{{ x }}"), ("messages[0]", "a")],
)
async def test_a_field_is_refused_by_its_name(path, name, value):
    async with serving() as server:
        response = await server.client.post(path, json=ROUTES[path] | {name: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("path", ROUTES)
async def test_a_field_that_is_required_is_missed_by_its_name(path):
    async with serving() as server:
        for name in ROUTES[path]:
            body = {key: value for key, value in ROUTES[path].items() if key != name}
            error = (await server.client.post(path, json=body)).json()["error"]
            assert (error["param"], error["code"]) == (name, "missing_required_parameter")


@pytest.mark.parametrize("path", ROUTES)
async def test_another_media_type_and_a_body_too_large(path):
    async with serving(limits=Limits(max_body_size=500)) as server:
        body = json.dumps(ROUTES[path]).encode()
        assert (await server.client.post(path, content=body, headers={"content-type": "text/plain"})).status_code == 415
        response = await server.client.post(path, json=ROUTES[path] | {"user": "a" * 500})
        assert response.status_code == 413
        assert "500" in response.json()["error"]["message"]
        assert (await server.client.post(path, json=ROUTES[path])).status_code == 200


INTEGERS = ("max_tokens", "min_tokens", "n", "seed", "top_k", "prompt_logprobs", "truncate_prompt_tokens")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [HUGE, -HUGE, 1.5, "1", True], ids=["huge", "-huge", "1.5", "'1'", "true"])
async def test_numbers_that_are_none_of_ours(path, name, value):
    async with serving() as server:
        response = await server.client.post(path, content=json.dumps(ROUTES[path] | {name: value}), headers=JSON)
        if (name, value) == ("truncate_prompt_tokens", HUGE):
            assert response.status_code == 200  # more than there are is all of them
            return
        assert response.status_code == 400
        assert len(response.text) < 1000


@pytest.mark.parametrize("path", CHATS)
@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "nobody", "content": "a"}], "messages[0].role"),
        ([{"role": "assistant"}], "messages[0].content"),
        ([{"role": "tool", "content": "a", "tool_call_id": "b"}], "messages[0].tool_call_id"),
        ([*HI, {"role": "user", "content": []}], "messages[1].content"),
    ],
)
async def test_messages_that_are_none(path, messages, param):
    async with serving() as server:
        response = await server.client.post(path, json={"messages": messages})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def tool(**function):
    return {"type": "function", "function": {"name": "f", **function}}


def called(arguments, **changes):
    return {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}} | changes


def result(call):
    return {"role": "tool", "content": "1", "tool_call_id": call}


def calling(arguments):
    return {"messages": [{"role": "assistant", "tool_calls": [called(arguments)]}]}


def allowed(tools):
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


def outputs(**fields):
    return {"structured_outputs": fields}


def tags(structures, triggers):
    return {"response_format": {"type": "structural_tag", "structures": structures, "triggers": triggers}}


def choosing(text):
    return {"type": "object", "properties": {"a": {"enum": [text]}}}


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
STRUCTURE = {"begin": "<a>", "schema": {"type": "object"}, "end": "</a>"}
LIMITED = [
    ("max_n", 3, CHAT, lambda most: {"n": most}, "n"),
    ("max_n", 3, TEXT, lambda most: {"best_of": most}, "best_of"),
    ("max_prompts", 3, TEXT, lambda most: {"prompt": ["a"] * most}, "prompt"),
    ("max_sequences", 5, TEXT, lambda most: {"prompt": ["a"] * most, "n": 1}, "n"),
    ("max_sequences", 5, TEXT, lambda most: {"prompt": "a", "best_of": most}, "best_of"),
    ("max_logprobs", 3, CHAT, lambda most: {"logprobs": True, "top_logprobs": most}, "top_logprobs"),
    ("max_logprobs", 3, TEXT, lambda most: {"logprobs": most}, "logprobs"),
    ("max_logprobs", 3, TEXT, lambda most: {"prompt_logprobs": most}, "prompt_logprobs"),
    ("max_stop", 3, CHAT, lambda most: {"stop": ["a"] * most}, "stop"),
    ("max_stop", 3, CHAT, lambda most: {"stop_token_ids": [5] * most}, "stop_token_ids"),
    ("max_stop_length", 9, CHAT, lambda most: {"stop": "a" * most}, "stop"),
    ("max_stop_length", 9, CHAT, lambda most: {"bad_words": ["a" * most]}, "bad_words"),
    ("max_logit_bias", 3, CHAT, lambda most: {"logit_bias": {str(n): 1 for n in range(most)}}, "logit_bias"),
    ("max_logit_bias", 3, CHAT, lambda most: {"bad_words": ["a"] * most}, "bad_words"),
    ("max_logit_bias", 3, CHAT, lambda most: {"allowed_token_ids": [5] * most}, "allowed_token_ids"),
    ("max_messages", 3, CHAT, lambda most: {"messages": HI * most}, "messages"),
    (
        "max_message_items",
        3,
        CHAT,
        lambda most: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * most}]},
        "messages[0].content",
    ),
    (
        "max_message_items",
        3,
        CHAT,
        lambda most: {"messages": [*HI, {"role": "assistant", "content": "a", "tool_calls": [called("{}")] * most}]},
        "messages[1].tool_calls",
    ),
    ("max_json_depth", 20, CHAT, lambda most: {"logit_bias": nested(most - 1)}, f"logit_bias{'.a' * 7}"),
    ("max_name_length", 9, CHAT, lambda most: {"messages": [HI[0] | {"name": "a" * most}]}, "messages[0].name"),
    (
        "max_name_length",
        9,
        CHAT,
        lambda most: {"messages": [*HI, {"role": "assistant", "tool_calls": [called("{}", id="a" * most)]}]},
        "messages[1].tool_calls[0].id",
    ),
    (
        "max_name_length",
        9,
        CHAT,
        lambda most: {"messages": [*calling("{}")["messages"], result("a" * most)]},
        "messages[1].tool_call_id",
    ),
    ("max_label_length", 9, TEXT, lambda most: {"user": "a" * most}, "user"),
    ("max_label_length", 9, TEXT, lambda most: {"safety_identifier": "a" * most}, "safety_identifier"),
    ("max_label_length", 9, TEXT, lambda most: {"metadata": {"b": "a" * most}}, "metadata.b"),
    ("max_metadata", 3, TEXT, lambda most: {"metadata": {str(n): "a" for n in range(most)}}, "metadata"),
    ("max_metadata_name_length", 9, TEXT, lambda most: {"metadata": {"a" * most: "b"}}, "metadata"),
    ("max_generation_tokens", 9, "/generation", lambda most: {"max_tokens": most}, "max_tokens"),
    ("max_tokenize_length", 9, "/tokenize", lambda most: {"prompt": "a" * most}, "prompt"),
    (
        "max_tokenize_length",
        30,
        f"{CHAT}/render",
        lambda most: {"messages": [{"role": "user", "content": "a" * (most - 27)}]},
        "messages",
    ),
    (
        "max_json_depth",
        20,
        CHAT,
        lambda most: calling(json.dumps(nested(most))),
        "messages[0].tool_calls[0].function.arguments",
    ),
    ("max_json_parts", 50, TEXT, lambda most: {"logit_bias": {str(n): 0 for n in range(most - 4)}}, "logit_bias"),
    (
        "max_json_parts",
        50,
        CHAT,
        lambda most: calling(json.dumps({"a": [[]] * (most - 3)})),
        "messages[0].tool_calls[0].function.arguments",
    ),
    ("max_tools", 3, CHAT, lambda most: {"tools": [tool(name=f"f{n}") for n in range(most)]}, "tools"),
    (
        "max_tools",
        3,
        CHAT,
        lambda most: {"tools": [tool()], "tool_choice": allowed([tool()] * most)},
        "tool_choice.allowed_tools.tools",
    ),
    (
        "max_tool_schema",
        100,
        CHAT,
        lambda most: {"tools": [tool(parameters={"title": "a" * (most - 12)})]},
        "tools[0].function.parameters",
    ),
    ("max_grammar_size", 30, CHAT, lambda most: outputs(regex="a" * most), "structured_outputs.regex"),
    ("max_grammar_size", 30, CHAT, lambda most: outputs(json={"title": "a" * (most - 12)}), "structured_outputs.json"),
    (
        "max_tool_grammar",
        350,
        CHAT,
        lambda most: {"tools": [tool(parameters=choosing("a" * (most - 334)))], "tool_choice": "required"},
        "tools",
    ),
    ("max_schema_depth", 3, CHAT, lambda most: outputs(json=schema_of(most)), f"structured_outputs.json{'.items' * 3}"),
    ("max_choices", 3, CHAT, lambda most: outputs(choice=["a"] * most), "structured_outputs.choice"),
    ("max_structures", 3, CHAT, lambda most: tags([STRUCTURE] * most, ["<"]), "response_format.structures"),
    ("max_structures", 3, CHAT, lambda most: tags([STRUCTURE], ["<"] * most), "response_format.triggers"),
]


def nested(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def schema_of(levels):
    return {"items": schema_of(levels - 1)} if levels > 1 else {}


@pytest.mark.parametrize(
    ("limit", "most", "path", "fields", "param"), LIMITED, ids=[f"{each[0]} of {each[4]}" for each in LIMITED]
)
async def test_what_is_at_a_limit_is_taken_and_what_is_beyond_is_told_the_limit(limit, most, path, fields, param):
    prompts = Prompts(byte_level(), ChatTemplate("{{ tools | tojson if tools }}" + TEMPLATE))
    async with serving(limits=Limits(**{limit: most}), prompts=prompts, tool_format="hermes") as server:
        within, beyond = (ROUTES[path] | fields(each) for each in (most, most + 1))
        response = await server.client.post(path, json=within)
        assert f"--{limit.replace('_', '-')}" not in response.text, response.text
        response = await server.client.post(path, json=beyond)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert f"--{limit.replace('_', '-')}" in error["message"] and f"{most}" in error["message"]


def test_every_limit_is_tried_and_has_a_flag_with_its_default():
    tried_elsewhere = {"max_body_size", "unknown_fields", "max_resume_choices"}
    tried = {each[0] for each in LIMITED} | tried_elsewhere
    assert tried == set(Limits.__dataclass_fields__)
    for name, field in Limits.__dataclass_fields__.items():
        assert ServeSettings.model_fields[name].default == field.default
