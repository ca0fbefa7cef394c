"""The demo model calls a tool, gets its result and answers, through the real openai client."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]
ASK: dict[str, Any] = {"model": "demo", "messages": ASKED, "tools": [WEATHER], "temperature": 0, "seed": 1}
RESULT = json.dumps({"temperature": 21, "condition": "sunny"})
ANSWER = "It is 21 degrees and sunny in Paris."


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with server.client() as opened:
        yield opened


def answered(client: Any, message: Any, *, streamed: bool = False) -> str:
    """What the model makes of the result of its call."""
    (call,) = message.tool_calls
    conversation = [*ASKED, message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    asked = ASK | {"messages": conversation}
    if not streamed:
        choice = client.chat.completions.create(**asked).choices[0]
        assert choice.finish_reason == "stop"
        return choice.message.content
    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    assert deltas[-1].finish_reason == "stop" and not any(choice.delta.tool_calls for choice in deltas)
    return "".join(choice.delta.content or "" for choice in deltas)


def test_a_call_its_result_and_the_answer(client):
    choice = client.chat.completions.create(**ASK).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert answered(client, choice.message) == ANSWER


def test_the_same_streamed(client):
    whole = client.chat.completions.create(**ASK).choices[0].message.tool_calls[0]
    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**ASK, stream=True)]
    calls = [call for choice in deltas for call in choice.delta.tool_calls or []]
    assert {call.index for call in calls} == {0}
    assert [call.function.name for call in calls if call.function.name] == ["get_weather"]
    assert [call.id for call in calls if call.id] == [whole.id]
    assert "".join(call.function.arguments or "" for call in calls) == whole.function.arguments
    assert [choice.finish_reason for choice in deltas if choice.finish_reason] == ["tool_calls"]
    with client.chat.completions.stream(**ASK) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert answered(client, final.choices[0].message, streamed=True) == ANSWER


def test_the_example_of_the_documentation(server):
    page = (Path(__file__).parents[2] / "docs/tools.md").read_text(encoding="utf-8")
    example, shown = re.findall(r"^```(?:python)?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[:2]
    assert "http://127.0.0.1:8000" in example
    code = example.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == shown, done.stderr


def test_several_choices_call_each_for_itself(client):
    chunks = list(client.chat.completions.create(**ASK | {"n": 2, "temperature": 0.2, "seed": 3}, stream=True))
    ids = {
        (c.index, call.id) for chunk in chunks for c in chunk.choices for call in c.delta.tool_calls or [] if call.id
    }
    assert len({index for index, _ in ids}) == 2 and len({identity for _, identity in ids}) == len(ids)


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_where_no_call_is_needed_or_allowed_there_is_none(client, choice):
    messages = [{"role": "user", "content": "What is the capital of France?" if choice == "auto" else "Hello"}]
    answer = client.chat.completions.create(**ASK | {"messages": messages, "tool_choice": choice})
    assert answer.choices[0].message.tool_calls is None and answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


SET_LIGHT = {
    "type": "function",
    "function": {
        "name": "set_light",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "color": {"enum": ["mauve", "teal"]},
                "level": {"type": "integer", "maximum": 9, "minimum": 0},
            },
            "required": ["color", "level"],
            "additionalProperties": False,
        },
    },
}
GREETING = [{"role": "user", "content": "Hello, how are you?"}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "set_light"}}], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_can_be_enforced(client, choice, stream):
    """The model would only greet back."""
    asked = ASK | {"messages": GREETING, "tools": [SET_LIGHT], "tool_choice": choice, "parallel_tool_calls": False}
    for seed in range(3):
        with client.chat.completions.stream(**asked | {"seed": seed, "temperature": 1.0}) as events:
            answer = events.get_final_completion()
        if not stream:
            answer = client.chat.completions.create(**asked | {"seed": seed, "temperature": 1.0})
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "set_light" and answer.choices[0].finish_reason == "tool_calls"
        arguments = json.loads(call.function.arguments)
        assert arguments.keys() == {"color", "level"}
        assert arguments["color"] in ("mauve", "teal") and arguments["level"] in (1, 2, 3)


def test_strict_holds_the_calls_that_the_model_makes(client):
    asked = ASK | {"messages": [{"role": "user", "content": "Make the light red."}], "tools": [SET_LIGHT]}
    (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["color"] in ("mauve", "teal")
    answer = client.chat.completions.create(**asked | {"messages": GREETING})
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tools_that_are_not_allowed_are_not_called(client, mode):
    """The model would ask for the weather."""
    only_light = {"mode": mode, "tools": [{"type": "function", "function": {"name": "set_light"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": only_light}
    asked = ASK | {"tools": [WEATHER, SET_LIGHT], "tool_choice": choice, "parallel_tool_calls": False}
    message = client.chat.completions.create(**asked).choices[0].message
    assert {call.function.name for call in message.tool_calls or []} <= {"set_light"}
    assert message.tool_calls or mode == "auto"


@pytest.mark.parametrize("stream", [False, True])
def test_calls_or_else_an_answer_by_a_schema(client, stream):
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}}
    asked = ASK | {"response_format": form}

    def answer(messages):
        if not stream:
            return client.chat.completions.create(**asked | {"messages": messages}).choices[0]
        with client.chat.completions.stream(**asked | {"messages": messages}) as events:
            return events.get_final_completion().choices[0]

    called, said = answer(ASKED), answer(GREETING)
    (call,) = called.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"} and not called.message.content
    assert json.loads(said.message.content)["mood"] in ("good", "bad") and not said.message.tool_calls


def test_other_formats_by_name(start_server, model_with_tokens):
    """The model's calls are text to a server that was told another format, and so is its text reasoning."""
    folder = model_with_tokens("<think>", "</think>")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking %}<think>{% endif %}")
    named = ("--served-model-name", "demo", "--tool-call-format", "llama3_json", "--reasoning-format", "think")
    with start_server(str(folder), *named) as other, other.client() as client:
        message = client.chat.completions.create(**ASK).choices[0].message
        assert message.tool_calls is None and message.content.startswith("<tool_call>")
        check_budget(client)


def check_budget(client):
    """Reasoning ends where its budget does, streamed and not, and leaves room for what is asked of the answer."""
    arguments = {"model": "demo", "messages": GREETING, "seed": 5, "max_tokens": 40, "temperature": 0}
    options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    for choice, budget in ((None, 4), (None, 0), ("yes", 4)):
        extra = {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": budget}
        extra |= {"structured_outputs": {"choice": [choice]}} if choice else {}
        whole = client.chat.completions.create(**arguments, extra_body=extra)
        chunks = list(client.chat.completions.create(**arguments, **options, extra_body=extra))
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        message = whole.choices[0].message
        reasoning = message.model_extra.get("reasoning_content") or ""
        assert "".join(delta.model_extra.get("reasoning_content") or "" for delta in deltas) == reasoning
        assert "".join(delta.content or "" for delta in deltas) == message.content
        assert bool(reasoning) is (budget > 0) and message.content and choice in (None, message.content)
        for usage in (whole.usage, chunks[-1].usage):
            assert usage.completion_tokens_details.reasoning_tokens == budget + 1, "the marker counts"
        counts = [chunk.usage.completion_tokens for chunk in chunks]
        assert counts == sorted(counts) and counts[-1] == whole.usage.completion_tokens
    off = client.chat.completions.create(**arguments, extra_body={"reasoning_effort": "none"})
    assert not off.choices[0].message.model_extra.get("reasoning_content")
    for refused in ({"reasoning_effort": "high"}, {"chat_template_kwargs": {"think": True}}):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(**arguments, extra_body=refused)
        assert error.value.param in ("reasoning_effort", "chat_template_kwargs.think")
