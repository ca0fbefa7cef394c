"""Structured output through the openai client and a real server, and across the death of its engine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

MESSAGES = [{"role": "user", "content": "Tell me about a person."}]
PAGE = Path(__file__).parents[2] / "docs/structured_output.md"


class Address(BaseModel, extra="forbid"):  # or a model may add members for ever
    street: str = Field(max_length=20)
    number: int = Field(ge=1, le=999)


class Person(BaseModel):
    name: str = Field(max_length=20)
    mood: Literal["good", "bad"]
    addresses: list[Address] = Field(max_length=2)
    nickname: str | None = Field(None, max_length=10)


def test_the_examples_of_the_page(server):
    namespace: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
            exec(example.replace("http://127.0.0.1:8000", server.url), namespace)
    namespace["client"].close()
    person, choice = printed.getvalue().splitlines()
    assert re.fullmatch(r"name='.*' age=-?\d+", person) and choice in ("yes", "no")


def test_parsing_into_a_model_streamed_and_not(server):
    with server.client() as client:
        arguments = {"model": "demo", "messages": MESSAGES, "response_format": Person, "seed": 3}
        answer = client.chat.completions.parse(**arguments)
        assert isinstance(answer.choices[0].message.parsed, Person)
        with client.chat.completions.stream(**arguments) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion()
        assert streamed.choices[0].message.content == answer.choices[0].message.content


def test_every_form_on_both_endpoints(server):
    forms = {
        "regex": ("[A-Z][a-z]{2,8} [0-9]{1,3}", lambda text: re.fullmatch("[A-Z][a-z]{2,8} [0-9]{1,3}", text)),
        "choice": (["red", "green", "dark green"], lambda text: text in ("red", "green", "dark green")),
        "grammar": ('root ::= "f(" [0-9]{1,3} ")"', lambda text: re.fullmatch(r"f\([0-9]{1,3}\)", text)),
        "json": (Address.model_json_schema(), lambda text: Address.model_validate_json(text)),
    }
    with server.client() as client:
        for name, (form, holds) in forms.items():
            extra = {"extra_body": {"structured_outputs": {name: form}}}
            chat = client.chat.completions.create(model="demo", messages=MESSAGES, n=3, **extra)
            plain = client.completions.create(model="demo", prompt="Once", n=3, max_tokens=300, **extra)
            texts = [choice.message.content for choice in chat.choices] + [choice.text for choice in plain.choices]
            assert all(holds(text) for text in texts), (name, texts)
            assert {choice.finish_reason for choice in (*chat.choices, *plain.choices)} == {"stop"}


UNKNOWN_FORMAT = {"type": "string", "format": "nothing"}
TREE = {
    "type": "structural_tag",
    "format": {
        "type": "sequence",
        "elements": [
            {"type": "json_schema", "json_schema": {"type": "integer"}},
            {"type": "regex", "pattern": "[a-z]"},
            {
                "type": "tag",
                "begin": "<",
                "content": {"type": "json_schema", "json_schema": UNKNOWN_FORMAT},
                "end": ">",
            },
        ],
    },
}
IN_THE_TREE = "format.elements[2].content.json_schema"
TAGS = {
    "type": "structural_tag",
    "structures": [{"begin": "<a>", "schema": UNKNOWN_FORMAT, "end": "</a>"}],
    "triggers": ["<"],
}


def test_what_cannot_be_compiled_is_a_400_with_the_reason(server):
    with server.client() as client:
        for form, param, code in [
            ({"regex": "("}, "structured_outputs.regex", "invalid_grammar"),
            ({"grammar": 'start: nothing "a"'}, "structured_outputs.grammar", "invalid_grammar"),
            (
                {"structural_tag": json.dumps(TREE)},
                f"structured_outputs.structural_tag.{IN_THE_TREE}",
                "invalid_grammar",
            ),
            (
                {"structural_tag": json.dumps(TAGS)},
                "structured_outputs.structural_tag.structures[0].schema",
                "invalid_grammar",
            ),
            ({"json": {"type": "strin"}}, "structured_outputs.json.type", "invalid_json_schema"),
            ({"json": {"format": "nothing"}}, "structured_outputs.json", "invalid_grammar"),
            ({"json": {"$ref": "#/$defs/a"}}, "structured_outputs.json.$ref", "invalid_json_schema"),
        ]:
            with pytest.raises(openai.BadRequestError) as raised:
                client.chat.completions.create(model="demo", messages=MESSAGES, extra_body={"structured_outputs": form})
            assert (raised.value.param, raised.value.code) == (param, code), raised.value
        with pytest.raises(openai.BadRequestError, match="'nothing'") as raised:
            client.chat.completions.create(model="demo", messages=MESSAGES, response_format=TREE)
        assert raised.value.param == f"response_format.{IN_THE_TREE}"
        assert client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=3).choices


def test_what_leaves_no_token_ends_that_request_alone(server):
    with server.client() as client:
        arguments: dict[str, Any] = {"model": "demo", "messages": MESSAGES}
        extra = {"structured_outputs": {"choice": ["yes"]}, "allowed_token_ids": [3]}
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(**arguments, extra_body=extra)
        assert (raised.value.param, raised.value.code) == ("allowed_token_ids", "cannot_continue")
        assert client.chat.completions.create(**arguments, max_tokens=3).choices
    server.wait_idle()


@pytest.mark.slow
async def test_constrained_streams_go_on_when_their_engine_is_killed(start_server):
    schema = {"type": "array", "items": Person.model_json_schema(), "minItems": 12, "maxItems": 12}
    schema["$defs"] = schema["items"].pop("$defs")

    async def one(client: openai.AsyncOpenAI, seed: int, counts: list[int]) -> tuple[str, str | None]:
        text, finish = "", None
        stream = await client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            seed=seed,
            stream=True,
            extra_body={"structured_outputs": {"json": schema}} if seed % 2 else {},
            max_tokens=400,
        )
        async for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
                counts[seed] = len(text)
        return text, finish

    with start_server() as server:
        async with server.async_client() as client:
            undisturbed = await asyncio.gather(*[one(client, seed, [0] * 6) for seed in range(6)])
            for text, finish in undisturbed[1::2]:
                assert finish == "length" or jsonschema.validate(json.loads(text), schema) is None
            counts = [0] * 6
            streams = asyncio.gather(*[one(client, seed, counts) for seed in range(6)])
            while min(counts[1::2]) < 40:
                assert not streams.done()
                await asyncio.sleep(0.005)
            (pid,) = server.engine_pids()
            os.kill(pid, signal.SIGKILL)
            assert await streams == undisturbed
        assert server.metric("penstock_engine_restarts_total") == 1
