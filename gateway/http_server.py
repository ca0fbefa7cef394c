"""The web framework's server, made to listen, to let go of its listening socket, and to end, each when told.

Importing this module takes most of the gateway's start.
"""

from __future__ import annotations

import asyncio
import math
import socket
from contextlib import AbstractContextManager, nullcontext

import uvicorn

from gateway.app import create_app
from gateway.http_protocol import BoundedHttpProtocol
from gateway.state import AppState


class HttpServer(uvicorn.Server):
    """``start`` and ``end`` once; between them ``accept`` and ``stop_accepting`` in turns."""

    def __init__(self, state: AppState) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(state),
                log_config=None,
                access_log=False,
                http=BoundedHttpProtocol,
                ws="none",
                server_header=False,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    async def start(self) -> None:
        """Ready to accept. Nobody is listened to yet."""
        self._serving = asyncio.create_task(self.serve(sockets=[]), name="http")
        await self._begun.wait()

    async def accept(self, listener: socket.socket) -> None:
        """Take connections from ``listener``, of which a duplicate is made: it stays the caller's."""
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            return BoundedHttpProtocol(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        self.servers.append(await loop.create_server(connection, sock=listener.dup(), backlog=self.config.backlog))

    def stop_accepting(self) -> None:
        """New connections wait at the listening socket, for whoever else accepts from it; open ones are served."""
        for server in self.servers:
            server.close()
        self.servers.clear()

    def close_idle(self) -> None:
        """Close the connections over which an answer has gone and no further request has come.

        A client that keeps one for its next request makes a new one instead.
        """
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedHttpProtocol) and connection.idle:
                connection.shutdown()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server_state.connections)

    async def ended(self) -> None:
        """Until it has ended: by ``end``, or by itself, which it never should."""
        assert self._serving is not None, "start() comes first"
        await asyncio.shield(self._serving)

    async def end(self, patience: float, at_once: asyncio.Event) -> None:
        """Close connections as their responses end, those that last longer than ``patience`` seconds then.

        ``at_once`` cuts that short.
        """
        self.config.timeout_graceful_shutdown = math.ceil(patience)
        self.should_exit = True
        hurry = asyncio.create_task(at_once.wait())
        ended = asyncio.create_task(self.ended())
        await asyncio.wait((hurry, ended), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        self.force_exit = not ended.done()
        await ended
        if self.force_exit:  # then uvicorn leaves the application as it is
            await self.lifespan.shutdown()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, after which ``accept`` has what it needs."""
        await super().startup(sockets)
        self._begun.set()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Signals are not handled here."""
        return nullcontext()
