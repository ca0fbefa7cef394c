"""What applications do with instructor, in each of its modes for OpenAI's API, against a running Penstock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import instructor
import openai
import pytest
from pydantic import BaseModel, Field, field_validator

SETTINGS = {"model": "demo", "temperature": 0, "seed": 1}
MODES = [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA]


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int


def about(name: str, age: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Extract name and age as JSON: {name} is {age} years old."}]


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def client(request: pytest.FixtureRequest) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(), mode=request.param)


def test_a_model_is_filled(client: instructor.Instructor) -> None:
    person = client.chat.completions.create(
        **SETTINGS, response_model=Person, messages=about("Anna", 31), max_retries=0
    )
    assert (person.name, person.age) == ("Anna", 31)


def test_the_completion_comes_with_it(client: instructor.Instructor) -> None:
    person, completion = client.chat.completions.create_with_completion(
        **SETTINGS, response_model=Person, messages=about("Anna", 31), max_retries=0
    )
    assert isinstance(person, Person) and completion.usage.completion_tokens > 0


def test_it_is_filled_while_it_streams(client: instructor.Instructor) -> None:
    states = list(client.chat.completions.create_partial(**SETTINGS, response_model=Person, messages=about("Anna", 31)))
    assert states[-1].name == "Anna" and states[-1].age == 31


def test_several_are_streamed(client: instructor.Instructor) -> None:
    people = client.chat.completions.create_iterable(
        **SETTINGS, response_model=Person, messages=about("Anna", 31), max_tokens=300
    )
    first = next(iter(people))
    assert isinstance(first, Person)


def test_a_choice_is_held_to_its_values(client: instructor.Instructor) -> None:
    class Mood(BaseModel):
        mood: Literal["good", "bad"]

    mood = client.chat.completions.create(
        **SETTINGS, response_model=Mood, messages=[{"role": "user", "content": "Hello"}], max_retries=0
    )
    assert mood.mood in ("good", "bad")


def test_what_is_not_valid_is_asked_for_again(client: instructor.Instructor) -> None:
    """The conversation that instructor then sends, with the failed answer and its error, is taken."""
    seen: list[int] = []

    class Counted(Person):
        @field_validator("age")
        @classmethod
        def second_time(cls, value: int) -> int:
            seen.append(value)
            if len(seen) < 2:
                raise ValueError("say it again")
            return value

    messages = about("Anna", 31)
    client.chat.completions.create(**SETTINGS, response_model=Counted, messages=messages, max_retries=1)
    assert len(seen) >= 2


async def test_async() -> None:
    async with openai.AsyncOpenAI() as raw:
        client = instructor.from_openai(raw)
        person = await client.chat.completions.create(
            **SETTINGS, response_model=Person, messages=about("Anna", 31), max_retries=0
        )
    assert (person.name, person.age) == ("Anna", 31)


def test_from_provider() -> None:
    client = instructor.from_provider("openai/demo")
    person = client.create(response_model=Person, messages=about("Anna", 31), temperature=0, max_retries=0)
    assert (person.name, person.age) == ("Anna", 31)


def test_parallel_calls() -> None:
    class get_weather(BaseModel):  # noqa: N801 - the name of the tool
        """Get the weather in a city"""

        city: str = Field(max_length=20)

    class get_price(BaseModel):  # noqa: N801
        """Look up a price"""

        item: str = Field(max_length=20)

    client = instructor.from_openai(openai.OpenAI(), mode=instructor.Mode.PARALLEL_TOOLS)
    calls = client.chat.completions.create(
        **SETTINGS,
        response_model=Iterable[get_weather | get_price],
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        max_retries=0,
    )
    (call,) = calls
    assert isinstance(call, get_weather) and call.city == "Paris"
