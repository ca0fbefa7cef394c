"""A real uvicorn on a free port: the openai client, raw sockets, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
import uvicorn
from http_for_tests import FakeLifecycle, Server, answer_hello, engine_info, make_state
from tokenizers_for_tests import byte_level

from gateway.app import create_app
from gateway.completion.events import Delta, OutputToken
from gateway.errors import InternalError
from gateway.protocol.limits import Limits

HI = [{"role": "user", "content": "Hi"}]


@asynccontextmanager
async def listening(script=answer_hello, **changes):
    lifecycle = FakeLifecycle(engine_info(byte_level()), script)
    state = make_state(lifecycle, [], **changes)
    server = uvicorn.Server(uvicorn.Config(create_app(state), log_level="error", access_log=False))
    listener = socket.create_server(("127.0.0.1", 0))  # clients that come before uvicorn has started wait
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            yield Server(client, lifecycle, [], state)
    finally:
        server.should_exit = True
        await serving


def client_of(server, **options):
    return openai.AsyncOpenAI(base_url=f"{server.client.base_url}/v1", api_key="none", max_retries=0, **options)


async def eventually(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (the condition is another task's)
            await asyncio.sleep(0.01)


def endless(request):
    for _ in range(10_000):
        yield [Delta(index=0, text="x", tokens=[OutputToken(5, None)])]
        yield 0.01


def silent(request):
    yield 60.0


async def test_the_openai_client_reads_everything():
    async with listening() as server, client_of(server) as client:
        answer = await client.chat.completions.create(model="alias", messages=HI, n=2, logprobs=True, top_logprobs=1)
        assert [choice.message.content for choice in answer.choices] == ["Hello there"] * 2
        assert answer.choices[1].logprobs.content[0].bytes == [72]
        assert answer.usage.prompt_tokens_details.cached_tokens == 3
        assert answer.model_dump()["object"] == "chat.completion"

        text = await client.completions.create(model="alias", prompt=["a", "b"], echo=True, logprobs=1)
        assert [choice.text for choice in text.choices] == ["aHello there", "bHello there"]

        stream = await client.completions.create(model="alias", prompt="a", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello there"

        assert [model.id async for model in client.models.list()] == ["org/model", "alias"]
        assert (await client.models.retrieve("org/model")).id == "org/model"


async def test_the_openai_clients_stream_helper_with_several_choices():
    async with listening() as server, client_of(server) as client:
        async with client.chat.completions.stream(
            model="alias", messages=HI, n=3, logprobs=True, stream_options={"include_usage": True}
        ) as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_completion()
        assert [choice.message.content for choice in final.choices] == ["Hello there"] * 3
        assert [choice.finish_reason for choice in final.choices] == ["stop"] * 3
        assert final.usage.completion_tokens == 24
        assert len(final.choices[2].logprobs.content) == 8


async def test_the_openai_client_raises_what_it_should():
    def failing(request):
        yield [Delta(index=0, text="x", tokens=[])]
        yield 0.01
        yield InternalError("The engine was lost.")

    async with listening(failing) as server, client_of(server) as client:
        create = client.chat.completions.create
        with pytest.raises(openai.BadRequestError) as bad:
            await create(model="alias", messages=HI, temperature=3)
        assert (bad.value.param, bad.value.code) == ("temperature", "integer_above_max_value")
        assert bad.value.request_id.startswith("req-")
        with pytest.raises(openai.NotFoundError):
            await create(model="gpt-6", messages=HI)
        stream = await create(model="alias", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match=r"The engine was lost\."):
            async for _ in stream:
                pass


@pytest.mark.parametrize("script", [endless, silent])
async def test_a_reader_that_leaves_a_stream_cancels_it(script):
    async with listening(script) as server:
        body = {"messages": HI, "stream": True}
        async with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            async for _ in response.aiter_raw():
                break
        await eventually(lambda: server.lifecycle.cancelled)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_does_not_wait_for_its_answer_cancels_it(stream):
    async with listening(silent) as server:
        body = {"messages": HI, "stream": stream}
        asking = asyncio.create_task(server.client.post("/v1/chat/completions", json=body, timeout=60))
        await eventually(lambda: server.lifecycle.requests)
        asking.cancel()
        await eventually(lambda: server.lifecycle.cancelled and not server.state.admission._inside.total())


async def test_many_at_once():
    async with listening() as server, client_of(server) as client:

        async def one(number):
            stream = await client.chat.completions.create(model="alias", messages=HI, stream=True, n=1 + number % 3)
            texts = [""] * (1 + number % 3)
            async for chunk in stream:
                texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
            return texts

        answers = await asyncio.gather(*(one(number) for number in range(50)))
        assert all(text == "Hello there" for texts in answers for text in texts)
        assert server.state.admission._inside.total() == 0


async def raw(server, request: bytes) -> bytes:
    url = server.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


async def test_a_large_body_is_answered_before_it_is_sent():
    async with listening(limits=Limits(max_body_size=1000)) as server:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer = await raw(server, head + b"Content-Length: 99999999\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413")
        assert b'"code": "payload_too_large"' in answer
        chunk = b"200\r\n" + b" " * 0x200 + b"\r\n"
        answer = await raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3)
        assert answer.startswith(b"HTTP/1.1 413")


async def test_nothing_but_data_lines_and_comments_is_on_the_wire():
    async with listening() as server:
        body = json.dumps({"messages": HI, "stream": True}).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        answer = await raw(server, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        headers, _, rest = answer.partition(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in headers.lower()
        lines = [line for line in rest.split(b"\n") if line.strip()]
        framing = [line for line in lines if not line.startswith((b"data: ", b": "))]
        assert all(int(line.strip(), 16) >= 0 for line in framing)  # sizes of HTTP's own chunks
        assert b"data: [DONE]" in lines
