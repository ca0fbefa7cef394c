"""The client reads what servers send, however the network cuts it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.load.client import Client, Exchange, Request, events
from gateway.load.prompts import Prompt

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REQUEST = Request(Prompt((5, 6, 7), "some text"), 9)


def sse(*messages: object) -> bytes:
    return b"".join(b"data: " + json.dumps(message).encode() + b"\n\n" for message in messages)


def text(piece: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": piece}]}


STREAM = sse(text("a"), text(""), text("b"), {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
STREAM += b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_survive_any_cut(size: int) -> None:
    pieces = [(float(at), STREAM[at : at + size]) for at in range(0, len(STREAM), size)]
    found = [event for _, event in events(pieces)]
    assert found == [event for _, event in events([(0.0, STREAM)])]
    assert len(found) == 4


def test_a_course_counts_chunks_with_text_and_believes_the_servers_count() -> None:
    course = Exchange(0.0, 9.0, 200, [(1.0, STREAM[:50]), (2.0, STREAM[50:])]).read()
    assert (course.tokens, course.prompt_tokens, course.chunks) == (4, 3, [1.0, 2.0])
    assert course.lengths == [1, 1] and course.chunk_tokens() == [2.0, 2.0]


def test_without_usage_chunks_are_counted() -> None:
    course = Exchange(0.0, 9.0, 200, [(1.0, sse(text("a"), text("b")))]).read()
    assert (course.tokens, course.prompt_tokens) == (2, None)


def test_tokens_that_make_no_character_are_an_answer_at_its_end() -> None:
    pieces = [(1.0, sse(text(""))), (2.0, sse(text("")))]
    usage = sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    course = Exchange(0.0, 9.0, 200, [*pieces, (4.0, usage)]).read()
    assert (course.error, course.tokens, course.chunks) == (None, 2, [2.0])


@pytest.mark.parametrize(
    ("exchange", "error"),
    [
        (Exchange(0.0, 1.0, 429, [(0.5, b"busy")]), "status 429: busy"),
        (Exchange(0.0, 1.0, 200, []), "the answer holds no token"),
        (Exchange(0.0, 1.0, 200, [(0.5, sse(text("a"), {"error": {"message": "broken"}}))]), "{'message': 'broken'}"),
        (Exchange(0.0, 1.0, 0, [], "no end after 1 s"), "no end after 1 s"),
    ],
)
def test_what_goes_wrong_is_an_error_of_the_course(exchange: Exchange, error: str) -> None:
    assert exchange.read().error == error


def test_bodies_hold_text_or_ids_and_what_was_added() -> None:
    completion = Client("http://x", "m", extra={"ignore_eos": None, "top_k": 3}).body(REQUEST)
    assert (completion["prompt"], completion["max_tokens"], completion["top_k"]) == ("some text", 9, 3)
    assert "ignore_eos" not in completion
    assert Client("http://x", "m", prompt_as="ids").body(REQUEST)["prompt"] == [5, 6, 7]
    assert Client("http://x", "m", api="chat").body(REQUEST)["messages"] == [{"role": "user", "content": "some text"}]
    with pytest.raises(ValueError, match="tokenizer"):
        Client("http://x", "m").body(Request(Prompt((1,), None), 1))


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    ended: list[asyncio.Future[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ended.append(end)
        await serve(reader, writer)
        writer.close()
        await writer.wait_closed()
        end.set_result(None)

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"
        await asyncio.gather(*ended)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, object]]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(next(line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")))
    return head, json.loads(await reader.readexactly(length))


async def test_a_stream_is_read_as_it_comes() -> None:
    seen = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen["head"], seen["body"] = await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (sse(text("a")), sse(text("b")), STREAM[-160:]):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    begun: list[float] = []
    async with server(serve) as url:
        client = Client(url, "m", api_key="secret")
        exchange = await client.ask(REQUEST, lambda: begun.append(asyncio.get_running_loop().time()))
    assert seen["head"].startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in seen["head"]
    assert seen["body"]["model"] == "m"
    course = exchange.read()
    assert course.error is None
    assert len(begun) == 1
    assert course.chunks == sorted(set(course.chunks))
    assert course.sent < course.chunks[0] < course.chunks[1] < course.ended


async def test_a_connection_that_breaks_off_is_a_failure() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()

    async with server(serve) as url:
        course = (await Client(url, "m").ask(REQUEST)).read()
    assert course.error
    assert course.error.startswith("the connection ended early")


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(serve) as url:
        course = (await Client(url, "m", timeout=0.05).ask(REQUEST)).read()
    assert course.error == "no end after 0.05 s"


async def test_nobody_there_is_a_failure() -> None:
    async with server(lambda *_: asyncio.sleep(0)) as url:
        pass
    assert (await Client(url, "m").ask(REQUEST)).read().error
