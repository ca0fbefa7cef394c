"""What applications do with Pydantic AI's agents, with its model for OpenAI's API, against a running Penstock."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, PromptedOutput, RunContext, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits

ANSWER = "It is 21 degrees and sunny in Paris."
ABOUT_ANNA = "Extract name and age as JSON: Anna is 31 years old."


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int


@pytest.fixture
def model() -> OpenAIChatModel:
    return OpenAIChatModel("demo", provider=OpenAIProvider(), settings=ModelSettings(temperature=0, seed=1))


def weather_agent(model: OpenAIChatModel, cities: list[str]) -> Agent[None, str]:
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> dict[str, object]:
        """Get the weather in a city"""
        cities.append(city)
        return {"temperature": 21, "condition": "sunny"}

    return agent


async def test_a_run(model: OpenAIChatModel) -> None:
    result = await Agent(model).run("What is the capital of France?")
    assert "Paris" in result.output
    assert result.usage.input_tokens > 0 and result.usage.output_tokens > 0


def test_a_run_that_blocks(model: OpenAIChatModel) -> None:
    assert "Paris" in Agent(model, instructions="You are helpful.").run_sync("What is the capital of France?").output


async def test_a_streamed_run_says_the_same(model: OpenAIChatModel) -> None:
    agent = Agent(model)
    whole = await agent.run("What is Penstock?")
    async with agent.run_stream("What is Penstock?") as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 1 and "".join(pieces) == whole.output
    assert result.usage.output_tokens == whole.usage.output_tokens


async def test_the_messages_of_one_run_go_into_the_next(model: OpenAIChatModel) -> None:
    agent = Agent(model)
    first = await agent.run("My name is Anna.")
    second = await agent.run("What is my name?", message_history=first.all_messages())
    assert "Anna" in second.output


async def test_a_tool_is_called_and_its_result_answered(model: OpenAIChatModel) -> None:
    cities: list[str] = []
    result = await weather_agent(model, cities).run("What is the weather in Paris?")
    assert (result.output, cities) == (ANSWER, ["Paris"])


async def test_the_same_streamed(model: OpenAIChatModel) -> None:
    cities: list[str] = []
    async with weather_agent(model, cities).run_stream("What is the weather in Paris?") as result:
        assert (await result.get_output(), cities) == (ANSWER, ["Paris"])


async def test_every_node_of_a_run(model: OpenAIChatModel) -> None:
    async with weather_agent(model, []).iter("What is the weather in Paris?") as run:
        nodes = [type(node).__name__ async for node in run]
    assert nodes.count("ModelRequestNode") == 2 and run.result is not None and run.result.output == ANSWER


async def test_dependencies_reach_a_tool(model: OpenAIChatModel) -> None:
    agent = Agent(model, deps_type=dict)

    @agent.tool
    def get_price(context: RunContext[dict[str, int]], item: str) -> dict[str, object]:
        """Look up a price"""
        return {"price": context.deps.get(item, 7)}

    result = await agent.run("What is the price of apples?", deps={"apples": 5})
    assert "5" in result.output


class Place(BaseModel):
    """Get the weather in a city"""

    city: str = Field(max_length=20)


OUTPUTS = [
    (ToolOutput(Place, name="get_weather"), "What is the weather in Paris?", Place(city="Paris")),
    (NativeOutput(Person), ABOUT_ANNA, Person(name="Anna", age=31)),
]
PROMPTED = (PromptedOutput(Person), ABOUT_ANNA, Person(name="Anna", age=31))


@pytest.mark.parametrize(("kind", "question", "expected"), [*OUTPUTS, PROMPTED], ids=["tool", "native", "prompted"])
async def test_an_output_by_a_model(model: OpenAIChatModel, kind: Any, question: str, expected: BaseModel) -> None:
    assert (await Agent(model, output_type=kind, retries=0).run(question)).output == expected


@pytest.mark.parametrize(("kind", "question", "expected"), OUTPUTS, ids=["tool", "native"])
async def test_an_output_while_it_streams(
    model: OpenAIChatModel, kind: Any, question: str, expected: BaseModel
) -> None:
    async with Agent(model, output_type=kind, retries=0).run_stream(question) as result:
        states = [state async for state in result.stream_output(debounce_by=None)]
    assert states[-1] == expected


async def test_an_output_of_two_models(model: OpenAIChatModel) -> None:
    class Refusal(BaseModel):
        reason: Literal["no name", "no age"]

    agent = Agent(model, output_type=[Person, Refusal], retries=0)
    assert isinstance((await agent.run(ABOUT_ANNA)).output, Person | Refusal)


async def test_settings_are_sent(model: OpenAIChatModel) -> None:
    settings = ModelSettings(max_tokens=3, top_p=0.5, frequency_penalty=0.1, stop_sequences=["zebra"], timeout=60)
    result = await Agent(model, model_settings=settings).run("Tell me a story.")
    assert result.usage.output_tokens == 3


async def test_a_limit_of_tokens(model: OpenAIChatModel) -> None:
    with pytest.raises(UsageLimitExceeded):
        await Agent(model).run("What is Penstock?", usage_limits=UsageLimits(output_tokens_limit=1))


async def test_an_error_has_its_status_and_body() -> None:
    with pytest.raises(ModelHTTPError) as raised:
        await Agent(OpenAIChatModel("other", provider=OpenAIProvider())).run("Hello")
    assert raised.value.status_code == 404 and raised.value.body["code"] == "model_not_found"
