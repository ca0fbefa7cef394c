"""Text to tokens and back, and the prompt that a conversation becomes."""

from __future__ import annotations

import hashlib

import pytest
from http_for_tests import CONTEXT, serving
from tokenizers_for_tests import byte_level

from gateway.admission import Key, Keys, Tenant

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"


async def test_a_text_becomes_tokens_and_comes_back():
    text = "naïve 日本 <s> then"
    async with serving() as server:
        answer = (await server.client.post("/tokenize", json={"prompt": text, "return_token_strs": True})).json()
        ids = byte_level().encode(text, add_special_tokens=True)
        assert answer["tokens"] == ids
        assert answer["count"] == len(ids)
        assert answer["max_model_len"] == CONTEXT
        assert answer["token_strs"] == [byte_level().spelling(token) for token in ids]
        assert "<s>" in answer["token_strs"]
        back = await server.client.post("/detokenize", json={"tokens": ids})
        assert back.json() == {"prompt": text}


async def test_spellings_are_left_out_where_nobody_asks():
    async with serving() as server:
        answer = (await server.client.post("/tokenize", json={"prompt": "Hi", "model": "alias"})).json()
        assert answer["token_strs"] is None


async def test_nothing_is_no_token_and_no_token_is_nothing():
    async with serving() as server:
        assert (await server.client.post("/tokenize", json={"prompt": ""})).json()["tokens"] == []
        assert (await server.client.post("/detokenize", json={"tokens": []})).json() == {"prompt": ""}


@pytest.mark.parametrize(
    "options",
    [{}, {"add_generation_prompt": False}, {"chat_template_kwargs": {"enable_thinking": True}}],
)
async def test_every_way_to_a_prompt_gives_the_prompt_that_is_generated_from(options):
    async with serving() as server:
        body = {"messages": MESSAGES, **options}
        await server.client.post(CHAT, json=body)
        (sent,) = server.lifecycle.last.prompts
        tokenized = (await server.client.post("/tokenize", json=body)).json()
        counted = (await server.client.post(f"{CHAT}/input_tokens", json=body)).json()
        rendered = (await server.client.post(f"{CHAT}/render", json=body)).json()
        assert tokenized["tokens"] == rendered["prompt_token_ids"] == sent
        assert counted == {"object": "chat.completion.input_tokens", "input_tokens": len(sent)}
        assert rendered["object"] == "chat.completion.render"
        assert rendered["model"] == "org/model"
        assert byte_level().encode(rendered["prompt"], add_special_tokens=False) == sent
        assert len(server.lifecycle.requests) == 1


async def test_an_open_message_is_continued():
    async with serving() as server:
        body = {"messages": [*MESSAGES, {"role": "assistant", "content": "Well"}], "continue_final_message": True}
        assert (await server.client.post(f"{CHAT}/render", json=body)).json()["prompt"].endswith("assistant: Well")
        count = (await server.client.post("/tokenize", json=body)).json()["count"]
        assert (
            count
            < (await server.client.post("/tokenize", json=body | {"continue_final_message": False})).json()["count"]
        )


async def test_a_prompt_that_leaves_no_room_is_counted():
    body = {"messages": [{"role": "user", "content": "x " * CONTEXT}]}
    async with serving() as server:
        assert (await server.client.post(CHAT, json=body)).status_code == 400
        assert (await server.client.post(f"{CHAT}/input_tokens", json=body)).json()["input_tokens"] > CONTEXT


async def test_a_long_text_is_tokenized_whole():
    text = "naïve " * 5 * CONTEXT
    async with serving() as server:
        answer = (await server.client.post("/tokenize", json={"prompt": text})).json()
        assert answer["tokens"] == byte_level().encode(text, add_special_tokens=True)
        body = {"messages": [{"role": "user", "content": text * 20}]}
        rendered = (await server.client.post(f"{CHAT}/render", json=body)).json()
        assert text * 20 in rendered["prompt"]


REFUSED_WITH_GENERATION = [
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
        "response_format",
    ),
    ({"structured_outputs": {"regex": "refuse"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos"),
    ({"allowed_token_ids": [10**6]}, "allowed_token_ids[0]"),
    ({"thinking_token_budget": 5}, "thinking_token_budget"),
    ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
    ({"max_tokens": CONTEXT}, "max_tokens"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
]


@pytest.mark.parametrize("route", ["input_tokens", "render"])
@pytest.mark.parametrize(("fields", "param"), REFUSED_WITH_GENERATION)
async def test_what_would_not_be_generated_from_is_not_shown(route, fields, param):
    async with serving() as server:
        errors = [
            (await server.client.post(path, json={"messages": MESSAGES} | fields)).json()["error"]
            for path in (CHAT, f"{CHAT}/{route}")
        ]
        assert errors[0] == errors[1] and errors[0]["param"].startswith(param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "a", "promt": "b"}, "promt"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "tools": [{"type": "function"}] * 500}, "tools"),
        (
            "/tokenize",
            {"messages": MESSAGES, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, 1.5]}, "tokens[1]"),
        ("/detokenize", {"tokens": [100_000]}, "tokens"),
        (f"{CHAT}/input_tokens", {"messages": MESSAGES, "n": 99}, "n"),
        (f"{CHAT}/render", {"messages": MESSAGES, "temprature": 1}, "temprature"),
    ],
)
async def test_bad_requests_are_refused_by_name(path, body, param):
    async with serving() as server:
        response = await server.client.post(path, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", f"{CHAT}/input_tokens", f"{CHAT}/render"])
async def test_they_need_a_key_a_model_and_an_engine(path):
    body = {"tokens": [5]} if path == "/detokenize" else {"messages": MESSAGES}
    async with serving(keys=Keys([Key(hashlib.sha256(b"key").digest(), Tenant("alice"))])) as server:
        assert (await server.client.post(path, json=body)).status_code == 401
        headers = {"authorization": "Bearer key"}
        assert (await server.client.post(path, json=body, headers=headers)).status_code == 200
        wrong = await server.client.post(path, json=body | {"model": "other"}, headers=headers)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (404, "model")
        server.lifecycle.info = None
        assert (await server.client.post(path, json=body, headers=headers)).status_code == 503
