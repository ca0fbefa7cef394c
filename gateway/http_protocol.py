"""uvicorn's HTTP protocol with what it leaves open: a bound on a request's head, in bytes and in time.

What cannot even be parsed never reaches the application, so its answer is written here, in the shape of all others.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import APIError, HeaderTooLarge, InvalidRequest, RequestTimeout

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together. What arrives in one read of the socket may lie beyond it."""
HEAD_SECONDS = 20.0
"""From the opening of a connection, or the first byte of a later request on it, to the end of the headers."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _head_deadline: TimerHandle | None = None
    _in_head = True

    @property
    def idle(self) -> bool:
        """Whether a request has been answered and nothing of another one has come."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and not (self._in_head and self._head_bytes)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeaderTooLarge(f"The request line and headers are longer than {MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP."""
        self._refuse(InvalidRequest(msg))

    def _begin_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._head_deadline = self.loop.call_later(HEAD_SECONDS, self._on_late_head)

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _on_late_head(self) -> None:
        if self._head_bytes:
            self._refuse(RequestTimeout(f"The headers of a request did not arrive within {HEAD_SECONDS:g} s."))
        else:
            self.transport.close()

    def _refuse(self, error: APIError) -> None:
        self._end_head()
        body = msgspec.json.encode(error.body())
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
