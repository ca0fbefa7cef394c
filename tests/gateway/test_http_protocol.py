"""A connection's bounds, over real sockets and a real uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import uvicorn

from gateway import http_protocol
from gateway.http_protocol import BoundedHttpProtocol


async def hello(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(hello, port=0, http=BoundedHttpProtocol, lifespan="off", log_config=None, access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await server.shutdown()


async def refusal(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    """Status and error of the answer, after which the connection ends."""
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    return int(head.split()[1]), json.loads(body)["error"]


REQUEST = b"GET / HTTP/1.1\r\nhost: here\r\nx-padding: %b\r\n\r\n"


async def test_requests_below_the_bound_are_answered_on_one_connection():
    async with connection() as (reader, writer):
        for _ in range(3):
            for piece in (REQUEST[:20], REQUEST[20:] % (b"a" * 40_000)):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


async def test_a_connection_is_idle_once_a_request_is_answered_and_until_the_next_one_begins(monkeypatch):
    protocols: list[BoundedHttpProtocol] = []
    made = BoundedHttpProtocol.connection_made
    monkeypatch.setattr(
        BoundedHttpProtocol, "connection_made", lambda self, to: (protocols.append(self), made(self, to))[1]
    )
    async with connection() as (reader, writer):
        for _ in range(2):
            writer.write(REQUEST[:20])
            for _ in range(60_000):
                if protocols and protocols[0]._head_bytes:
                    break
                await asyncio.sleep(0.001)
            assert not protocols[0].idle, "a request has begun"
            writer.write(REQUEST[20:] % b"a")
            await reader.readuntil(b"ok")
            assert protocols[0].idle
            protocols[0]._head_bytes = 0


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n"])
async def test_a_head_without_end_is_refused(start: bytes):
    async with connection() as (reader, writer):
        # Not a byte more than it takes: a server that closes on unread data resets, and its answer is lost.
        writer.write(start.ljust(http_protocol.MAX_HEAD_BYTES + 1, b"a"))
        status, error = await refusal(reader)
        assert (status, error["code"], error["param"]) == (431, "headers_too_large", None)


async def test_a_head_that_takes_its_time_is_refused(monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    async with connection() as (reader, writer):
        writer.write(REQUEST % b"a")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\nhost:")
        status, error = await refusal(reader)
        assert (status, error["code"]) == (408, "request_timeout")


async def test_a_connection_that_never_says_anything_is_closed(monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    async with connection() as (reader, _):
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_what_is_no_http_is_answered_in_the_shape_of_all_errors():
    async with connection() as (reader, writer):
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        status, error = await refusal(reader)
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert error.keys() == {"message", "type", "param", "code"}
