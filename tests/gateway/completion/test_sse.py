"""The stream on a real HTTP connection, spoken to byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.completion.events import Completed, Usage
from gateway.completion.sse import (
    DONE,
    EventStreamResponse,
    data_frame,
    first_events,
    run_until_disconnect,
)
from gateway.completion.stream import Stream
from gateway.errors import InternalError, Unavailable

Endpoint = Callable[[Request], Response]


class Server:
    def __init__(self, port: int, uvicorn_server: uvicorn.Server) -> None:
        self.port = port
        self.uvicorn = uvicorn_server

    async def post(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        return reader, writer

    async def exchange(self) -> tuple[bytes, list[bytes]]:
        """(head, chunks) of a whole response."""
        reader, writer = await self.post()
        head = await reader.readuntil(b"\r\n\r\n")
        chunks = []
        while chunks[-1:] != [b""]:
            size = int(await reader.readline(), 16)
            chunks.append((await reader.readexactly(size + 2))[:-2])
        writer.close()
        return head.lower(), chunks[:-1]


class StartedServer(uvicorn.Server):
    """Says when it listens, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def capture_signals(self):
        return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def serving(endpoint) -> AsyncIterator[Server]:
    async def route(request: Request) -> Response:
        await request.body()
        return await endpoint(request)

    app = Starlette(routes=[Route("/", route, methods=["POST"])])
    server = StartedServer(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve())
    await asyncio.wait_for(server.ready.wait(), 10)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Server(port, server)
    finally:
        server.should_exit = True
        await task


class Ended:
    """An ``on_end`` that can be waited for."""

    def __init__(self) -> None:
        self.calls = 0
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.event.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self.event.wait(), 5)


async def two_frames() -> AsyncIterator[bytes]:
    yield data_frame({"text": "línea\n\r\u2028x"})
    yield DONE


async def test_frames_headers_and_a_prompt_end() -> None:
    ended = Ended()

    async def endpoint(_: Request) -> Response:
        return EventStreamResponse(two_frames(), on_end=ended, headers={"x-request-id": "7"})

    async with serving(endpoint) as server:
        head, chunks = await asyncio.wait_for(server.exchange(), 5)
    for header in (
        b"content-type: text/event-stream",
        b"cache-control: no-store",
        b"x-accel-buffering: no",
        b"x-request-id: 7",
    ):
        assert header in head
    assert chunks == ['data: {"text":"línea\\n\\r\u2028x"}\n\n'.encode(), b"data: [DONE]\n\n"]
    assert ended.calls == 1


async def test_keep_alives_are_comments_and_nothing_else() -> None:
    async def slow() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.5)
        yield DONE

    async def endpoint(_: Request) -> Response:
        return EventStreamResponse(slow(), on_end=lambda: None, keep_alive=0.05)

    async with serving(endpoint) as server:
        _, chunks = await server.exchange()
    # On a busy machine several may be read as one, and one may come after the end, where nobody reads on.
    assert re.fullmatch(rb"(: keep-alive\n\n)+" + re.escape(DONE) + rb"(: keep-alive\n\n)?", b"".join(chunks))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unavailable("The engine is gone.", retry_after=1), "The engine is gone."),
        (KeyError("secret"), "The server failed"),
    ],
)
async def test_a_failure_in_mid_stream_is_an_error_event(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield data_frame({"n": 1})
        raise error

    async def endpoint(_: Request) -> Response:
        return EventStreamResponse(failing(), on_end=lambda: None)

    async with serving(endpoint) as server:
        _, chunks = await server.exchange()
    assert chunks[0] == b'data: {"n":1}\n\n'
    body = json.loads(chunks[1].removeprefix(b"data: "))
    assert body["error"]["message"].startswith(message)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert chunks[2:] == [DONE]
    assert ("a stream failed" in caplog.text) == isinstance(error, KeyError)


@pytest.mark.parametrize("frames_before", [0, 1])
async def test_a_client_that_goes_away_ends_the_stream_at_once(frames_before: int) -> None:
    ended = Ended()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(frames_before):
            yield data_frame({})
        await asyncio.Event().wait()

    async def endpoint(_: Request) -> Response:
        return EventStreamResponse(endless(), on_end=ended)

    async with serving(endpoint) as server:
        reader, writer = await server.post()
        await reader.readuntil(b"\r\n\r\n")
        if frames_before:
            await reader.readuntil(b"data: {}\n\n")
        writer.close()
        await ended.wait()


async def test_a_client_that_stops_reading_and_goes_away_ends_the_stream() -> None:
    ended = Ended()

    async def flood() -> AsyncIterator[bytes]:
        while True:
            yield b"data: " + b"x" * 65536 + b"\n\n"
            await asyncio.sleep(0)

    async def endpoint(_: Request) -> Response:
        return EventStreamResponse(flood(), on_end=ended)

    async with serving(endpoint) as server:
        _, writer = await server.post()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await ended.wait()


async def test_the_end_of_the_server_does_not_end_running_streams() -> None:
    """sse-starlette would; draining is the lifecycle's."""
    go = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield data_frame({"n": 1})
        await go.wait()
        yield DONE

    async def endpoint(_: Request) -> Response:
        return EventStreamResponse(waiting(), on_end=lambda: None)

    async with serving(endpoint) as server:
        reader, writer = await server.post()
        await reader.readuntil(b'data: {"n":1}\n\n')
        server.uvicorn.handle_exit(15, None)
        await asyncio.sleep(0.7)  # its watcher looks every half second
        go.set()
        assert b"[DONE]" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
        writer.close()


# --- before the response starts ----------------------------------------------------------------------------------


async def test_first_events_waits_for_the_first_but_not_for_long() -> None:
    stream = Stream(lambda: None)
    assert await first_events(stream, within=0.01) == []
    completed = Completed(Usage(1, 1, 0))
    asyncio.get_running_loop().call_later(0.01, stream.push, completed)
    assert await first_events(stream) == [completed]


async def test_an_early_failure_is_raised_before_there_are_headers() -> None:
    stream = Stream(lambda: None)
    stream.fail(InternalError("broken"))
    with pytest.raises(InternalError):
        await first_events(stream)


async def test_a_client_that_goes_away_before_any_answer_cancels_the_work() -> None:
    cancelled, outcome = Ended(), asyncio.get_running_loop().create_future()

    async def forever() -> None:
        await asyncio.Event().wait()

    async def endpoint(request: Request) -> Response:
        try:
            await run_until_disconnect(request, forever(), on_disconnect=cancelled)
        except ClientDisconnect as error:
            outcome.set_result(error)
        return JSONResponse({})

    async with serving(endpoint) as server:
        _, writer = await server.post()
        await asyncio.sleep(0.02)
        assert not cancelled.calls
        writer.close()
        await cancelled.wait()
        assert isinstance(await outcome, ClientDisconnect)
    assert cancelled.calls == 1


async def test_work_that_ends_in_time_is_the_result_and_the_response_still_notices_a_disconnect() -> None:
    cancelled, ended = Ended(), Ended()

    async def work() -> str:
        await asyncio.sleep(0.01)
        return "result"

    async def endless() -> AsyncIterator[bytes]:
        yield data_frame({})
        await asyncio.Event().wait()

    async def endpoint(request: Request) -> Response:
        assert await run_until_disconnect(request, work(), on_disconnect=cancelled) == "result"
        return EventStreamResponse(endless(), on_end=ended)

    async with serving(endpoint) as server:
        reader, writer = await server.post()
        await reader.readuntil(b"data: {}\n\n")
        assert not cancelled.calls
        writer.close()
        await ended.wait()


async def test_work_that_fails_cancels_too() -> None:
    cancelled = Ended()

    async def work() -> None:
        raise InternalError("broken")

    async def endpoint(request: Request) -> Response:
        with pytest.raises(InternalError):
            await run_until_disconnect(request, work(), on_disconnect=cancelled)
        return JSONResponse({"ok": True})

    async with serving(endpoint) as server:
        reader, writer = await server.post()
        await reader.readuntil(b'{"ok":true}')
        writer.close()
    assert cancelled.calls == 1
