"""``/v1/chat/completions``, whole and streamed, around a scripted lifecycle."""

from __future__ import annotations

import json

import pytest
from http_for_tests import CONTEXT, answer_hello, events_of, say, scored, serving
from tokenizers_for_tests import byte_level

from engine.sampling_params import SamplingParams
from gateway.completion.events import Completed, Delta, OutputToken, Usage
from gateway.errors import InternalError, Unavailable

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


# --- streams ------------------------------------------------------------------------------------------------


async def chunks_of(server, **fields):
    response = await server.chat(stream=True, **fields)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    *events, done = events_of(response.text)
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


async def test_a_stream_begins_with_roles_in_index_order_and_ends_with_reasons():
    async with serving() as server:
        chunks = await chunks_of(server, n=3)
        assert len({chunk["id"] for chunk in chunks}) == len({chunk["created"] for chunk in chunks}) == 1
        for chunk in chunks:
            assert chunk["object"] == "chat.completion.chunk"
            assert {"id", "object", "created", "model", "system_fingerprint", "choices"} <= chunk.keys()
            assert "usage" not in chunk
        choices = [chunk["choices"][0] for chunk in chunks]
        assert choices[:3] == [
            {
                "index": index,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
            for index in range(3)
        ]
        for index in range(3):
            own = [choice for choice in choices[3:] if choice["index"] == index]
            assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello there"
            assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["stop"]
            assert own[-1]["delta"] == {}


async def test_a_stop_token_is_one_of_the_ids_and_scores_and_not_of_the_text():
    def script(request):
        end = OutputToken(1, scored(1))
        yield [Delta(index=0, text="X", tokens=[OutputToken(57, scored(57))], num_tokens=1)]
        yield [Delta(index=0, text="", tokens=[], finish_reason="stop", stop_tokens=[end], num_tokens=2)]
        yield [Completed(Usage(1, 2, 0))]

    async with serving(script=script) as server:
        choice = (await server.chat(logprobs=True, return_token_ids=True)).json()["choices"][0]
        assert choice["token_ids"] == [57, 1]
        assert len(choice["logprobs"]["content"]) == 2
        usage = {"include_usage": True, "continuous_usage_stats": True}
        *_, text, last, _ = await chunks_of(server, logprobs=True, return_token_ids=True, stream_options=usage)
        assert text["choices"][0]["token_ids"] == [57]
        assert last["choices"][0]["token_ids"] == [1]
        assert last["choices"][0]["logprobs"]["content"] == choice["logprobs"]["content"][1:]
        assert last["usage"]["completion_tokens"] == 2, "as in the chunk after it"
        *_, last = await chunks_of(server)
        assert last["choices"][0]["logprobs"] is None and "token_ids" not in last["choices"][0]


SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]


@pytest.mark.parametrize(("messages", "echoed"), [(SAID, "Well, "), (SAID[:1], "")])
async def test_echo_puts_the_last_message_before_the_answer_where_it_is_the_assistants(messages, echoed):
    async with serving() as server:
        fields = {"messages": messages, "echo": True, "n": 2, "logprobs": True}
        for choice in (await server.chat(**fields)).json()["choices"]:
            assert choice["message"]["content"] == f"{echoed}Hello there"
            assert len(choice["logprobs"]["content"]) == 8, "of what was generated"
        chunks = await chunks_of(server, **fields)
        for index in range(2):
            own = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"][0]["index"] == index]
            assert own[0] == {"role": "assistant", "content": echoed, "refusal": None}
            assert "".join(delta.get("content", "") for delta in own) == f"{echoed}Hello there"
        assert (await server.chat(messages=messages, echo=False)).json()["choices"][0]["message"]["content"] == (
            "Hello there"
        )


async def test_the_usage_chunk_is_last():
    async with serving() as server:
        *chunks, last = await chunks_of(server, stream_options={"include_usage": True})
        assert all(chunk["usage"] is None for chunk in chunks)
        prompt_tokens = len(server.lifecycle.last.prompts[0])
        assert last["choices"] == []
        assert last["usage"] == {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 8,
            "total_tokens": prompt_tokens + 8,
            "prompt_tokens_details": {"cached_tokens": 3},
        }


async def test_usage_so_far_grows():
    async with serving() as server:
        chunks = await chunks_of(server, stream_options={"include_usage": True, "continuous_usage_stats": True})
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts)
        assert {0, 4, 8} <= set(counts)
        assert counts[-1] == 8
        for chunk in chunks:
            usage = chunk["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_streamed_logprobs_are_those_of_the_whole():
    async with serving() as server:
        whole = (await server.chat(logprobs=True, top_logprobs=2)).json()["choices"][0]["logprobs"]["content"]
        chunks = await chunks_of(server, logprobs=True, top_logprobs=2)
        found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        assert [entry for logprobs in found if logprobs for entry in logprobs["content"]] == whole


async def test_tokens_whose_text_is_held_back_are_still_reported():
    def script(request):
        yield [Delta(index=0, text="", tokens=[OutputToken(5, scored(5))])]
        yield [Delta(index=0, text="x", tokens=[OutputToken(6, scored(6))], finish_reason="length")]
        yield [Completed(Usage(1, 2, 0))]

    async with serving(script=script) as server:
        chunks = await chunks_of(server, logprobs=True)
        contents = [c["logprobs"]["content"] for chunk in chunks if (c := chunk["choices"][0])["logprobs"]]
        assert [len(content) for content in contents] in ([1, 1], [2])


async def test_what_arrives_together_is_sent_together():
    def script(request):
        yield [*say(byte_level(), "Hello", 0), *say(byte_level(), "Hello", 1), Completed(Usage(1, 9, 0))]

    async with (
        serving(script=script) as server,
        server.client.stream(
            "POST", "/v1/chat/completions", json={"messages": [HI], "stream": True, "n": 2}
        ) as response,
    ):
        sent = [piece async for piece in response.aiter_raw()]
    assert len(sent) == 1
    assert sent[0].endswith(b"data: [DONE]\n\n")
    assert len(events_of(sent[0].decode())) == 2 + 2 + 2 + 1


async def test_a_failure_before_the_first_token_keeps_its_status():
    def script(request):
        yield Unavailable("Gone.", retry_after=3)

    async with serving(script=script) as server:
        for stream in (True, False):
            response = await server.chat(stream=stream)
            assert response.status_code == 503
            assert response.headers["retry-after"] == "3"
            assert response.headers["retry-after-ms"] == "3000"
            assert response.json()["error"]["code"] == "server_is_overloaded"
        assert server.records == []  # it was accepted: the lifecycle says how it ended


async def test_a_failure_in_the_middle_is_an_error_event():
    def script(request):
        yield [Delta(index=0, text="Hel", tokens=[OutputToken(5, None)])]
        yield 0.01
        yield InternalError("The engine was lost.")

    async with serving(script=script) as server:
        events = events_of((await server.chat(stream=True)).text)
        errors = [json.loads(event) for event in events if "error" in event]
        assert errors == [
            {
                "error": {
                    "message": "The engine was lost.",
                    "type": "server_error",
                    "param": None,
                    "code": "internal_error",
                }
            }
        ]


async def test_headers_wait_no_longer_than_a_second():
    def script(request):
        yield 1.3
        yield from answer_hello(request)

    async with serving(script=script, keep_alive=0.1) as server:
        response = await server.chat(stream=True)
        assert 1000 <= int(response.headers["openai-processing-ms"]) < 1290
        assert ": keep-alive\n\n" in response.text
        assert events_of(response.text)[-1] == "[DONE]"


async def test_a_reason_that_the_request_named_is_told():
    def script(request):
        yield [Delta(index=0, text="a", tokens=[], finish_reason="stop", stop_reason="END"), Completed(Usage(1, 1, 0))]

    async with serving(script=script) as server:
        assert (await server.chat()).json()["choices"][0]["stop_reason"] == "END"
        assert (await chunks_of(server))[-1]["choices"][0]["stop_reason"] == "END"


async def test_text_of_any_kind_passes_unharmed():
    text = 'line\nbreak\r\n"quote" \\ \u2028 \u2029 \x00 \x85 😀 {} % %s data: [DONE]'

    def script(request):
        yield [Delta(index=0, text=text, tokens=[]), Delta(index=0, text="", tokens=[], finish_reason="stop")]
        yield [Completed(Usage(1, 1, 0))]

    async with serving(script=script) as server:
        chunks = await chunks_of(server)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
        assert (await server.chat()).json()["choices"][0]["message"]["content"] == text
