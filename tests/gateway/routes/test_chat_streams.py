"""``/v1/chat/completions``, streamed, around a scripted lifecycle."""

from __future__ import annotations

import json

import pytest
from http_for_tests import answer_hello, events_of, say, scored, serving
from tokenizers_for_tests import byte_level

from gateway.completion.events import Completed, Delta, OutputToken, Usage
from gateway.errors import InternalError, Unavailable

HI = {"role": "user", "content": "Hi"}


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
