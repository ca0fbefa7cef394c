"""Link: a pair of sockets between a server and the one that it has started to follow it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Generic, TypeVar

import msgspec

from gateway.handover.messages import encode

M = TypeVar("M")

_LONGEST = 64 * 1024


class Link(Generic[M]):
    """One end. Each message is one packet, which may carry one open socket (SCM_RIGHTS)."""

    def __init__(self, end: socket.socket, kind: Any) -> None:
        """``kind`` is the union of the messages that are received."""
        end.setblocking(False)
        self._socket = end
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(kind)

    def send(self, message: msgspec.Struct, carried: socket.socket | None = None) -> None:
        """Never waits: a few packets fit. Raises ``OSError`` where nobody is at the other end."""
        socket.send_fds(self._socket, [encode(message)], [] if carried is None else [carried.fileno()])

    async def receive(self) -> tuple[M, socket.socket | None] | None:
        """The next message, and the socket that came with it; None once nobody is at the other end."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket.fileno())
        try:
            packet, files, _, _ = socket.recv_fds(self._socket, _LONGEST, 1)
        except ConnectionError:
            return None
        if not packet:
            return None
        return self._decoder.decode(packet), socket.socket(fileno=files[0]) if files else None

    def close(self) -> None:
        self._socket.close()
