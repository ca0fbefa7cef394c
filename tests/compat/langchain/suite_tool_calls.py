"""What applications do with tools in LangChain, in questions that the demo model can answer."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

ASKED = HumanMessage("What is the weather in Paris?")
ANSWER = "It is 21 degrees and sunny in Paris."


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city"""
    assert city == "Paris"
    return json.dumps({"temperature": 21, "condition": "sunny"})


@pytest.fixture
def model() -> Any:
    return ChatOpenAI(
        model="demo", base_url=os.environ["OPENAI_BASE_URL"], api_key="none", temperature=0, seed=1
    ).bind_tools([get_weather])


def test_a_call_its_result_and_the_answer(model: Any) -> None:
    called = model.invoke([ASKED])
    assert isinstance(called, AIMessage) and called.response_metadata["finish_reason"] == "tool_calls"
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert model.invoke([ASKED, called, result]).content == ANSWER


def joined(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    assert len(chunks) > 1
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def test_the_same_streamed(model: Any) -> None:
    called = joined(list(model.stream([ASKED])))
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    assert joined(list(model.stream([ASKED, called, get_weather.invoke(call)]))).content == ANSWER


async def test_the_same_asynchronously(model: Any) -> None:
    called = joined([chunk async for chunk in model.astream([ASKED])])
    (call,) = called.tool_calls
    answer = joined([chunk async for chunk in model.astream([ASKED, called, await get_weather.ainvoke(call)])])
    assert answer.content == ANSWER
