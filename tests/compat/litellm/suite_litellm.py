"""What applications do with litellm's functions for an OpenAI-compatible server, against a running Penstock."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from typing import Any

import litellm
import pytest
from pydantic import BaseModel, Field

GREEDY: dict[str, Any] = {"model": "openai/demo", "temperature": 0, "seed": 1, "num_retries": 0}
HOSTED: dict[str, Any] = GREEDY | {"model": "hosted_vllm/demo", "api_base": os.environ["OPENAI_BASE_URL"]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
RESULT = json.dumps({"temperature": 21, "condition": "sunny"})
ANSWER = "It is 21 degrees and sunny in Paris."


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(params=[GREEDY, HOSTED], ids=["openai", "hosted_vllm"])
def provider(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(autouse=True)
def _streams_are_closed() -> Iterator[None]:
    """litellm leaves streams before their end. One that is collected while httpcore (1.0.9) takes a connection out of
    its pool waits for ever for the pool's lock, which the same thread holds."""
    yield
    gc.collect()


def test_completion(provider: dict[str, Any]) -> None:
    answer = litellm.completion(**provider, messages=ask("What is the capital of France?"))
    assert "Paris" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same(provider: dict[str, Any]) -> None:
    whole = litellm.completion(**provider, messages=ask("What is Penstock?"))
    stream = litellm.completion(
        **provider, messages=ask("What is Penstock?"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    built = litellm.stream_chunk_builder(chunks)
    assert built.usage.completion_tokens == whole.usage.completion_tokens


async def test_async_and_async_streams(provider: dict[str, Any]) -> None:
    whole = await litellm.acompletion(**provider, messages=ask("What is Penstock?"))
    stream = await litellm.acompletion(**provider, messages=ask("What is Penstock?"), stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_its_result_and_the_answer(provider: dict[str, Any], stream: bool) -> None:
    messages = ask("What is the weather in Paris?")
    first = litellm.completion(**provider, messages=messages, tools=[WEATHER], stream=stream)
    if stream:
        first = litellm.stream_chunk_builder(list(first))
    message = first.choices[0].message
    (call,) = message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    second = litellm.completion(**provider, messages=messages, tools=[WEATHER], stream=stream)
    if stream:
        second = litellm.stream_chunk_builder(list(second))
    assert second.choices[0].message.content == ANSWER


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=str)
def test_a_call_is_enforced(provider: dict[str, Any], choice: Any) -> None:
    answer = litellm.completion(**provider, messages=ask("Hello"), tools=[WEATHER], tool_choice=choice)
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_an_answer_by_a_model(provider: dict[str, Any]) -> None:
    messages = ask("Extract name and age as JSON: Anna is 31 years old.")
    answer = litellm.completion(**provider, messages=messages, response_format=Person)
    assert Person.model_validate_json(answer.choices[0].message.content) == Person(name="Anna", age=31)


def test_a_json_object(provider: dict[str, Any]) -> None:
    messages = ask("Extract name and age as JSON: Anna is 31 years old.")
    answer = litellm.completion(**provider, messages=messages, response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {"name": "Anna", "age": 31}


def test_fields_of_other_servers_pass(provider: dict[str, Any]) -> None:
    answer = litellm.completion(
        **provider, messages=ask("Hello"), max_tokens=5, extra_body={"min_tokens": 5, "ignore_eos": True, "top_k": 1}
    )
    assert answer.usage.completion_tokens == 5


def test_several_answers_and_log_probabilities(provider: dict[str, Any]) -> None:
    answer = litellm.completion(**provider, messages=ask("Hello"), n=2, logprobs=True, top_logprobs=2, max_tokens=3)
    assert [len(choice.logprobs.content) for choice in answer.choices] == [3, 3]


def test_text_completion() -> None:
    arguments = {**GREEDY, "model": "text-completion-openai/demo", "prompt": "Once upon a time", "max_tokens": 12}
    whole = litellm.text_completion(**arguments)
    pieces = litellm.text_completion(**arguments, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in pieces) == whole.choices[0].text


def test_errors_have_their_class(provider: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**provider | {"model": provider["model"].replace("demo", "other")}, messages=ask("Hello"))
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**provider | {"temperature": 7}, messages=ask("Hello"))
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**provider, messages=ask("word " * 4000))


def test_a_request_that_takes_longer_than_its_timeout(provider: dict[str, Any]) -> None:
    with pytest.raises(litellm.Timeout):
        litellm.completion(**provider, messages=ask("Tell me a story."), n=8, max_tokens=1900, timeout=0.05)
