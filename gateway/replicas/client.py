"""One socket to one incarnation of one engine: a bound ZeroMQ PAIR on an endpoint that nobody else ever has.

The endpoint is a unix socket in a new folder that only this user may enter. Linger is 0, so nothing said to a dead
engine waits for another; there is no high-water mark, so ``send`` never waits (requests are bounded by admission).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from engine.messages import FromEngine, ToEngine, decode_from_engine, encode

_LONGEST_PATH = 100
"""Unix socket paths have about 107 bytes; a longer temporary folder gives way to /tmp."""


class MalformedFrameError(Exception):
    """The engine said something that is no message: it cannot be trusted any more."""


class Client:
    """Made by the gateway before the engine process starts; the engine connects to ``endpoint``."""

    def __init__(self, context: zmq.asyncio.Context, replica: int, epoch: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-"))
        path = self._folder / f"replica-{replica}-{epoch}.sock"
        if len(str(path)) > _LONGEST_PATH:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
            path = self._folder / path.name
        self._has_folder = True
        self.endpoint = f"ipc://{path}"
        self._socket = context.socket(zmq.PAIR)
        self._socket.linger = 0
        self._socket.set_hwm(0)
        self._socket.bind(self.endpoint)
        self._arriving: asyncio.Future[Any] | None = None
        """A frame being waited for; kept here because cancelling a task drops a result that it was about to see."""

    def send(self, message: ToEngine) -> None:
        """At once; dropped where the engine is gone, as its loss is about to be known."""
        if not self._socket.closed:
            # With no high-water mark this is done before it returns; it stays pending only without a peer.
            self._socket.send(encode(message))

    async def receive(self, deliver: Callable[[FromEngine], None]) -> None:
        """Hands over every message until it is cancelled, which loses none. Raises ``MalformedFrameError``."""
        while True:
            if self._arriving is None:
                self._arriving = asyncio.ensure_future(self._socket.recv())
            frame = await self._arriving
            self._arriving = None
            self._remove_folder()
            deliver(_decoded(frame))

    async def receive_rest(self, deliver: Callable[[FromEngine], None], quiet: float = 0.05) -> None:
        """What a dead engine had still said: until nothing comes for ``quiet`` seconds. Raises as ``receive``."""
        if self._arriving is not None and self._arriving.done() and not self._arriving.cancelled():
            deliver(_decoded(self._arriving.result()))
        while await self._socket.poll(int(quiet * 1000)):
            deliver(_decoded(await self._socket.recv()))

    def close(self) -> None:
        """Nobody listens at the endpoint any more. Idempotent."""
        self._socket.close()
        self._remove_folder()

    def _remove_folder(self) -> None:
        """A connection outlives its path: once the engine has spoken, not even a killed gateway leaves one behind."""
        if self._has_folder:
            self._has_folder = False
            shutil.rmtree(self._folder, ignore_errors=True)


def _decoded(frame: bytes) -> FromEngine:
    try:
        return decode_from_engine(frame)
    except msgspec.DecodeError as error:
        raise MalformedFrameError(str(error)) from error
