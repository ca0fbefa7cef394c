"""What holds for every route that takes a body: nothing is ignored, and nothing but a 4xx comes of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_for_tests import serving

from gateway.protocol.limits import Limits

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
    "too deep": b'{"prompt": ' + b"[" * 64 + b"]" * 64 + b"}",
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
