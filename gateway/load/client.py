"""One streaming request over HTTP, at little cost: the client often shares a machine with the server it measures.

While streams run, bytes are kept with the time they came and nothing else is done; JSON is read when all is over.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from gateway.load.prompts import Prompt

Piece = tuple[float, bytes]


@dataclass(frozen=True)
class Request:
    prompt: Prompt
    output_tokens: int


@dataclass
class Course:
    """What became of one request. Times are of one clock, in seconds."""

    sent: float
    ended: float
    chunks: list[float] = field(default_factory=list)
    """When text came. A chunk may hold several tokens."""
    tokens: int = 0
    """Generated, as the server counts; the number of chunks where it does not say."""
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    error: str | None = None
    lengths: list[int] = field(default_factory=list)
    """Characters in each chunk, where that is known."""

    def chunk_tokens(self) -> list[float]:
        """Tokens in each chunk: one, or where some hold more, as many as their share of the text makes likely."""
        if self.tokens == len(self.chunks) or not self.lengths:
            return [self.tokens / len(self.chunks)] * len(self.chunks)
        return [self.tokens * length / sum(self.lengths) for length in self.lengths]


@dataclass(frozen=True)
class Exchange:
    """One request and what came back, unread."""

    sent: float
    ended: float
    status: int
    pieces: list[Piece]
    failure: str | None = None

    def read(self) -> Course:
        course = Course(self.sent, self.ended, error=self.failure)
        if self.status != 200 and not self.failure:
            body = b"".join(data for _, data in self.pieces).decode(errors="replace")
            course.error = f"status {self.status}: {body[:300]}"
        if course.error:
            return course
        last = None
        for at, event in events(self.pieces):
            if event.get("error"):
                course.error = str(event["error"])[:300]
            if usage := event.get("usage"):
                course.tokens = usage["completion_tokens"]
                course.prompt_tokens = usage["prompt_tokens"]
                course.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            if length := text_length(event):
                course.chunks.append(at)
                course.lengths.append(length)
            if event.get("choices"):
                last = at
        if not course.chunks and course.tokens and last is not None:
            # Tokens that make no whole character: all that is known is when they had come.
            course.chunks.append(last)
            course.lengths.append(1)
        if not course.chunks and not course.error:
            course.error = "the answer holds no token"
        course.tokens = course.tokens or len(course.chunks)
        return course


def events(pieces: Iterable[Piece]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The JSON objects of server-sent events, each with the time at which its line was complete."""
    rest = b""
    for at, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                yield at, json.loads(data)


def text_length(event: Mapping[str, Any]) -> int:
    """Characters of output in an event."""
    return sum(
        len(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
        for choice in event.get("choices") or ()
    )


class _Answer(asyncio.Protocol):
    """Reads one response."""

    def __init__(self, request: bytes, begun: Callable[[], None] | None) -> None:
        self.pieces: list[Piece] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._begun = begun
        self._parser = httptools.HttpResponseParser(self)
        self._now = 0.0

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.WriteTransport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        self.pieces.append((self._now, body))
        if self._begun and any(text_length(event) for _, event in events(self.pieces)):
            self._begun()
            self._begun = None

    def on_message_complete(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended early: {exc}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))


@dataclass(frozen=True)
class Client:
    """How requests are put to one server."""

    url: str
    model: str
    api: str = "completions"
    """completions or chat."""
    prompt_as: str = "text"
    """text or ids."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of a request's body; None takes a field out."""
    api_key: str | None = None
    timeout: float = 600.0

    def body(self, request: Request) -> dict[str, Any]:
        prompt = request.prompt.text if self.prompt_as == "text" else list(request.prompt.ids)
        if prompt is None:
            raise ValueError("a prompt in text needs a tokenizer")
        chat = {"messages": [{"role": "user", "content": prompt}]}
        body = {
            "model": self.model,
            **(chat if self.api == "chat" else {"prompt": prompt}),
            "max_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _head_and_body(self, request: Request) -> bytes:
        place = urlsplit(self.url)
        path = "chat/completions" if self.api == "chat" else "completions"
        body = json.dumps(self.body(request)).encode()
        lines = [
            f"POST {place.path.rstrip('/')}/v1/{path} HTTP/1.1",
            f"Host: {place.netloc}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *([f"Authorization: Bearer {self.api_key}"] if self.api_key else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def ask(self, request: Request, begun: Callable[[], None] | None = None) -> Exchange:
        """Send ``request`` and keep what comes back; ``begun`` is called at the first text. A failure is a result."""
        place = urlsplit(self.url)
        secure = place.scheme == "https"
        message = self._head_and_body(request)
        failure, transport, answer = None, None, None
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout):
                transport, answer = await asyncio.get_running_loop().create_connection(
                    lambda: _Answer(message, begun),
                    place.hostname or "127.0.0.1",
                    place.port or (443 if secure else 80),
                    ssl=secure or None,
                )
                await answer.done
        except TimeoutError:
            failure = f"no end after {self.timeout:g} s"
        except OSError as error:
            failure = str(error) or type(error).__name__
        finally:
            if transport:
                transport.close()
        ended = time.perf_counter()
        return Exchange(sent, ended, answer.status if answer else 0, answer.pieces if answer else [], failure)
