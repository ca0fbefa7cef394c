"""Events → bytes: the framing of a server-sent event stream, and its life on an HTTP connection.

A frame is ``data: JSON`` and a blank line, and nothing else: no ``id:``, no ``event:``; keep-alives are comments,
which every client skips and which reset its read timeout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from gateway.completion.events import Event
from gateway.errors import APIError, InternalError

logger = logging.getLogger(__name__)

# It would end running streams as soon as SIGTERM arrives; the drain is ours.
AppStatus.enable_automatic_graceful_drain = False

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()


def data_frame(body: Any) -> bytes:
    """One event; ``body`` is anything that msgspec can write as JSON (a ``msgspec.Raw`` is taken as it is)."""
    return b"data: %b\n\n" % _encoder.encode(body)


class Readable(Protocol):
    """What is read of a ``Stream`` here."""

    async def __anext__(self) -> list[Event]: ...

    async def ready(self) -> None: ...


async def first_events(stream: Readable, within: float = 1.0) -> list[Event]:
    """The first events, or none where ``within`` seconds bring none. Raises the ``APIError`` of an early failure.

    Called before the response starts, so that such a failure keeps its real status.
    """
    try:
        await asyncio.wait_for(stream.ready(), within)
    except TimeoutError:
        return []
    return await stream.__anext__()


async def run_until_disconnect(
    request: Request, work: Coroutine[Any, Any, T], *, on_disconnect: Callable[[], None]
) -> T:
    """The result of ``work``, unless the client goes away before it: then it is cancelled.

    ``on_disconnect`` (a stream's ``cancel``) is called however this ends without a result, an error of ``work``
    included. The request's body must have been read. Raises ``ClientDisconnect``, which nobody will see the answer to.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        succeeded = working.done() and not working.cancelled() and working.exception() is None
        if not succeeded:
            on_disconnect()
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStreamResponse(EventSourceResponse):
    """A stream of frames as an HTTP response.

    However it ends, ``on_end`` (a stream's ``cancel``) is called: at the end of the frames, when the client goes
    away, before the first frame too, and when the server gives up on it.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        *,
        on_end: Callable[[], None],
        headers: dict[str, str] | None = None,
        keep_alive: float = 15.0,
    ) -> None:
        """``frames`` yields whole frames; ``headers`` come on top of ``cache-control: no-store`` and its like.

        ``keep_alive``: seconds between comments.
        """
        super().__init__(
            _guarded(frames),
            headers=headers,
            ping=keep_alive,
            sep="\n",
            ping_message_factory=_keep_alive,
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


def _keep_alive() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")


async def _guarded(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Tells the client of a failure in mid-stream: without an error event it would take the end for success."""
    try:
        async for frame in frames:
            yield frame
    except APIError as error:
        yield data_frame(error.body())
        yield DONE
    except Exception:
        logger.exception("a stream failed")
        yield data_frame(InternalError("The server failed while it was writing this stream.").body())
        yield DONE
