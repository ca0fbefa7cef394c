"""The server that this one follows, as the new process sees it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import MutableMapping

from gateway.handover.link import Link
from gateway.handover.messages import Failed, Listener, Load, Prepared, Ready, Serving, ToSuccessor
from gateway.listening import StartError

VARIABLE = "_PENSTOCK_PREDECESSOR"
"""Names the inherited socket's file descriptor."""


class Predecessor:
    """``may_load``, ``take_listener`` and ``serving`` in this order; ``fail`` instead of the rest at any time."""

    def __init__(self, end: socket.socket) -> None:
        self._link: Link[ToSuccessor] = Link(end, ToSuccessor)

    @classmethod
    def inherited(cls, environ: MutableMapping[str, str]) -> Predecessor | None:
        """None for a server that follows nobody. Nothing that this process starts will take itself for a follower."""
        number = environ.pop(VARIABLE, None)
        return cls(socket.socket(fileno=int(number))) if number is not None else None

    async def may_load(self, port: int) -> None:
        """Until there is room for our engines. ``port`` is what our settings say, 0 for any. Raises ``StartError``."""
        self._link.send(Prepared())
        load, _ = await self._next()
        assert isinstance(load, Load)
        if port not in (0, load.port):
            raise StartError(f"an upgrade keeps the port {load.port}: only a restart can change it to {port}")

    async def take_listener(self) -> socket.socket:
        """The listening socket, which is still accepted from by the other server too. Raises ``StartError``."""
        self._link.send(Ready())
        message, listener = await self._next()
        assert isinstance(message, Listener) and listener is not None
        listener.setblocking(False)
        return listener

    def serving(self) -> None:
        """We accept connections: the other server stops. It may have died meanwhile, which changes nothing."""
        with contextlib.suppress(OSError):
            self._link.send(Serving())
        self._link.close()

    def fail(self, message: str) -> None:
        """Tell why there will be no new server."""
        with contextlib.suppress(OSError):
            self._link.send(Failed(message))

    async def _next(self) -> tuple[ToSuccessor, socket.socket | None]:
        received = await self._link.receive()
        if received is None:
            raise StartError("the server that this one should follow is gone, or has called it off")
        return received
