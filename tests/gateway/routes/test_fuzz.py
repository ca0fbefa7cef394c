"""Whatever a body holds, the answer is a success or a 4xx in shape: never a 5xx, never another shape."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from http_for_tests import TEMPLATE, serving
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import byte_level

from gateway.chat_template import ChatTemplate
from gateway.prompt import Prompts
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import CompletionRequest

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 30)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["user", "system", "assistant", "tool", "text", "function", "auto", "none", "{}", "1"])
)
FIELDS = ["role", "content", "type", "text", "name", "tool_calls", "function", "arguments", "id", "tool_call_id"]
names = st.sampled_from([*FIELDS, "1", "enable_thinking", "include_usage", "mode"]) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=12
)
text_part = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=8)})
call = st.fixed_dictionaries(
    {
        "id": st.text(max_size=4),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.text(max_size=4), "arguments": st.sampled_from(["{}", "", "[]", '{"a": 1}', "{"])}
        ),
    }
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={
        "content": st.text(max_size=20) | st.lists(text_part, max_size=3) | st.none(),
        "name": st.text(max_size=4),
        "tool_calls": st.lists(call, max_size=2),
        "tool_call_id": st.text(max_size=4),
    },
)
prompts = (
    st.text(max_size=30)
    | st.lists(st.text(max_size=10), max_size=4)
    | st.lists(st.integers(-1, 500), max_size=10)
    | st.lists(st.lists(st.integers(0, 500), max_size=4), max_size=3)
)


def bodies(schema, **proper):
    """A request that is mostly right, with some of its fields set to anything."""
    known = st.sampled_from(sorted({*schema.model_fields, *schema.unsupported}))
    right = st.fixed_dictionaries(proper)
    wrong = st.dictionaries(known | names, values, max_size=4)
    return st.tuples(right, wrong).map(lambda pair: pair[0] | pair[1]) | values


@pytest.fixture(scope="module")
def send():
    """Posts bytes to a path of one application and checks the answer."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        prompts = Prompts(byte_level(), ChatTemplate(f"{{{{ tools | tojson if tools }}}}{TEMPLATE}"))
        formats = {"tool_format": "hermes", "reasoning_format": "think"}
        server = runner.run(stack.enter_async_context(serving(prompts=prompts, **formats)))

        async def post(path: str, content: bytes) -> None:
            before = len(server.lifecycle.requests)
            response = await server.client.post(path, content=content, headers={"content-type": "application/json"})
            accepted = len(server.lifecycle.requests) - before
            if response.status_code == 200:
                assert accepted == 1
                return
            assert accepted == 0
            assert 400 <= response.status_code < 500, response.text
            assert response.json()["error"].keys() == {"message", "type", "param", "code"}
            assert len(response.content) < 2000

        yield lambda path, content: runner.run(post(path, content))
        runner.run(stack.aclose())


fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def encoded(body) -> bytes:
    """With surrogates written as escapes, as a client may."""
    return json.dumps(body).encode()


@fuzz
@given(body=bodies(ChatCompletionRequest, messages=st.lists(message, min_size=1, max_size=4)))
@example(body={"messages": [{"role": "user", "content": "\ud800"}]})
@example(body={"messages": [{"role": "user", "content": "Hi"}], "logit_bias": {"9" * 5000: 1}})
@example(body={"messages": [{"role": "user", "content": "Hi", "x" * 10_000: 1}]})
def test_chat_never_fails(send, body):
    send("/v1/chat/completions", encoded(body))


schema = values | st.fixed_dictionaries(
    {"type": st.just("object")}, optional={"properties": st.dictionaries(names, values, max_size=2), "required": values}
)
function = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g", "a.b-c"]) | st.text(max_size=3)},
    optional={"parameters": schema, "strict": st.booleans(), "description": st.text(max_size=4)},
)
tool = st.fixed_dictionaries({"type": st.just("function"), "function": function})
named = st.builds(lambda name: {"type": "function", "function": {"name": name}}, st.sampled_from(["f", "g", "h"]))
allowed = st.fixed_dictionaries({"mode": st.sampled_from(["auto", "required"]), "tools": st.lists(named, max_size=3)})
some = st.fixed_dictionaries({"type": st.just("allowed_tools"), "allowed_tools": allowed | values})
choices = st.sampled_from(["none", "auto", "required"]) | named | some


@fuzz
@given(
    body=bodies(
        ChatCompletionRequest,
        messages=st.just([{"role": "user", "content": ""}]),
        tools=st.lists(tool | values, max_size=2) | st.lists(tool, min_size=1, max_size=1),
        tool_choice=choices,
        parallel_tool_calls=st.booleans(),
    )
)
@example(body={"messages": [{"role": "user", "content": ""}], "tools": [{"type": "function", "function": {
    "name": "f", "strict": True, "parameters": {"minimum": 10**30}}}]})  # fmt: skip
def test_tools_never_fail(send, body):
    send("/v1/chat/completions", encoded(body))


@fuzz
@given(body=bodies(CompletionRequest, prompt=prompts))
def test_completions_never_fail(send, body):
    send("/v1/completions", encoded(body))


@fuzz
@given(content=st.binary(max_size=60) | values.map(lambda value: encoded(value)[:-1]))
def test_bytes_that_are_no_json_never_fail(send, content):
    send("/v1/completions", content)
