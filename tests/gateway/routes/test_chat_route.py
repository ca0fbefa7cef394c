"""``/v1/chat/completions``, answered whole, around a scripted lifecycle."""

from __future__ import annotations

import json

import pytest
from http_for_tests import CONTEXT, events_of, scored, serving
from tokenizers_for_tests import byte_level

from engine.sampling_params import SamplingParams
from gateway.completion.events import Completed, Delta, OutputToken, Usage

HI = {"role": "user", "content": "Hi"}


def text_of_prompt(server):
    (prompt,) = server.lifecycle.last.prompts
    return byte_level().decode(prompt, skip_special_tokens=False)


async def test_a_whole_answer_has_every_member():
    async with serving() as server:
        response = await server.chat()
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        prompt_tokens = len(server.lifecycle.last.prompts[0])
        assert body.pop("id").startswith("chatcmpl-")
        assert isinstance(body.pop("created"), int)
        assert body == {
            "object": "chat.completion",
            "model": "org/model",
            "system_fingerprint": "fp_test",
            "service_tier": "default",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello there", "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                    "stop_reason": None,
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": 8,
                "total_tokens": prompt_tokens + 8,
                "prompt_tokens_details": {"cached_tokens": 3},
            },
        }


async def test_the_prompt_is_the_rendered_template():
    async with serving() as server:
        await server.chat(
            messages=[
                {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind"}]},
                HI,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "ü"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "3"},
            ]
        )
        assert text_of_prompt(server) == (
            "<s>system: Be\nkind</s><s>user: Hi</s><s>assistant: None"
            '[{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "ü"}}}]</s>'
            "<s>tool: 3</s><s>assistant: "
        )


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({}, "</s><s>assistant: "),
        ({"add_generation_prompt": True}, "</s><s>assistant: "),
        ({"add_generation_prompt": False}, "<s>assistant: Sure, </s>"),
        ({"continue_final_message": True}, "<s>assistant: Sure, "),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "</s><s>assistant: <think>"),
    ],
)
async def test_how_a_prompt_ends(fields, ending):
    async with serving() as server:
        response = await server.chat(messages=[HI, {"role": "assistant", "content": "Sure, "}], **fields)
        assert response.status_code == 200, response.text
        assert text_of_prompt(server).endswith(ending)


async def test_sampling_fields_reach_the_engine():
    async with serving() as server:
        await server.chat(
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            min_p=0.1,
            seed=-1,
            n=2,
            stop=["a", "b"],
            stop_token_ids=[5, 1],
            max_completion_tokens=9,
            max_tokens=9,
            min_tokens=2,
            presence_penalty=1,
            frequency_penalty=-1,
            repetition_penalty=1.1,
            logit_bias={"7": -100, "8": 1.5},
            logprobs=True,
            top_logprobs=2,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            cache_salt="pepper",
            user="somebody",
        )
        request = server.lifecycle.last
        assert request.params == (
            SamplingParams(
                max_tokens=9,
                min_tokens=2,
                temperature=0.5,
                top_k=7,
                top_p=0.9,
                min_p=0.1,
                presence_penalty=1.0,
                frequency_penalty=-1.0,
                repetition_penalty=1.1,
                logit_bias={7: -100.0, 8: 1.5},
                stop_token_ids=(1, 5),
                logprobs=2,
            ),
        )
        assert (request.n, request.seed, request.stop) == (2, 2**64 - 1, ("a", "b"))
        assert (request.include_stop_str_in_output, request.skip_special_tokens) == (True, False)
        assert (request.cache_salt, request.tenant) == ("pepper", "default")


async def test_defaults_are_resolved():
    async with serving() as server:
        await server.chat()
        request = server.lifecycle.last
        left = CONTEXT - len(request.prompts[0])
        assert request.params == (SamplingParams(max_tokens=left, stop_token_ids=(1,)),)
        assert (request.n, request.stop, request.cache_salt) == (1, (), "")
        await server.chat()
        assert server.lifecycle.last.seed != request.seed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 1e-9}, {"temperature": 0.0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 10**6}, {"top_k": 0}),
        ({"top_p": 0}, {"top_p": 1e-9}),
        ({"ignore_eos": True}, {"stop_token_ids": ()}),
        ({"ignore_eos": True, "stop_token_ids": [1]}, {"stop_token_ids": (1,)}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": False}, {"logprobs": None}),
        ({"max_tokens": 4}, {"max_tokens": 4}),
    ],
)
async def test_how_values_are_understood(fields, expected):
    async with serving() as server:
        response = await server.chat(**fields)
        assert response.status_code == 200, response.text
        (params,) = server.lifecycle.last.params
        assert {name: getattr(params, name) for name in expected} == expected


async def test_either_name_of_the_model_is_answered_with():
    async with serving() as server:
        assert (await server.chat(model="alias")).json()["model"] == "alias"
        assert (await server.chat(model=None)).json()["model"] == "org/model"
        response = await server.chat(model="gpt-6")
        assert response.status_code == 404
        assert response.json()["error"] | {"message": ""} == {
            "message": "",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }


async def test_logprobs_of_a_whole_answer():
    async with serving() as server:
        choice = (await server.chat(logprobs=True, top_logprobs=1)).json()["choices"][0]
        content = choice["logprobs"]["content"]
        assert "".join(entry["token"] for entry in content) == choice["message"]["content"] == "Hello there"
        assert content[0] == {
            "token": "H",
            "logprob": -1.0,
            "bytes": [72],
            "top_logprobs": [{"token": byte_level().token_text(10), "logprob": -1.0, "bytes": [41]}],
        }


async def test_a_part_of_a_character_is_told_by_its_bytes():
    tokenizer = byte_level()
    emoji = "😀"
    ids = tokenizer.encode(emoji, add_special_tokens=False)
    assert len(ids) > 1

    def script(request):
        yield [Delta(index=0, text=emoji, tokens=[OutputToken(token, scored(token)) for token in ids])]
        yield [Delta(index=0, text="", tokens=[], finish_reason="length"), Completed(Usage(1, len(ids), 0))]

    async with serving(script=script) as server:
        content = (await server.chat(logprobs=True)).json()["choices"][0]["logprobs"]["content"]
        assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == emoji
        assert all(entry["token"] == "\ufffd" for entry in content if len(entry["bytes"]) == 1)


async def test_token_ids_are_returned_where_asked_for():
    async with serving() as server:
        body = (await server.chat(return_token_ids=True)).json()
        assert body["prompt_token_ids"] == server.lifecycle.last.prompts[0]
        ids = byte_level().encode("Hello there", add_special_tokens=False)
        assert body["choices"][0]["token_ids"] == ids
        chunks = [
            json.loads(event) for event in events_of((await server.chat(return_token_ids=True, stream=True)).text)[:-1]
        ]
        assert chunks[0]["choices"][0]["prompt_token_ids"] == server.lifecycle.last.prompts[0]
        assert [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])] == ids
