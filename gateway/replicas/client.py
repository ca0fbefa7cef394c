"""One socket to one incarnation of one engine: a bound ZeroMQ PAIR on an endpoint that nobody else ever has.

The endpoint is a unix socket in a new folder that only this user may enter. Linger is 0, so nothing said to a dead
engine waits for another; there is no high-water mark, so ``send`` never waits (requests are bounded by admission).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from engine.messages import FromEngine, ToEngine, decode_from_engine, encode

_LONGEST_PATH = 100
"""Unix socket paths have about 107 bytes; a longer temporary folder gives way to /tmp."""
_AT_ONCE = 16
"""Most messages taken in before others have their turn of the event loop."""


class MalformedFrameError(Exception):
    """The engine said something that is no message: it cannot be trusted any more."""


@dataclass(frozen=True, slots=True)
class _Receiver:
    loop: asyncio.AbstractEventLoop
    deliver: Callable[[FromEngine], None]
    failed: asyncio.Future[None]
    """Done only by an exception."""


class Client:
    """Made by the gateway before the engine process starts; the engine connects to ``endpoint``.

    The event loop watches the socket's file descriptor itself: ``zmq.asyncio`` took a third of the gateway's CPU time
    where it serves one stream of a small model. That descriptor tells of an arrival once, and any call to the socket
    may take the notice; so all that is there is read each time, and a look is taken after every ``send``.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], replica: int, epoch: int) -> None:
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
        self._receiver: _Receiver | None = None

    def send(self, message: ToEngine) -> None:
        """At once; dropped where the engine is gone, as its loss is about to be known."""
        if self._socket.closed:
            return
        with contextlib.suppress(zmq.Again):
            self._socket.send(encode(message), zmq.NOBLOCK)
        if self._receiver is not None:
            self._receiver.loop.call_soon(self._take_in)

    async def receive(self, deliver: Callable[[FromEngine], None]) -> None:
        """Hands over every message until it is cancelled, which loses none. Raises ``MalformedFrameError``."""
        loop = asyncio.get_running_loop()
        self._receiver = receiver = _Receiver(loop, deliver, loop.create_future())
        loop.add_reader(self._socket.fileno(), self._take_in)
        self._take_in()
        try:
            await receiver.failed
        finally:
            self._stop_receiving()

    async def receive_rest(self, deliver: Callable[[FromEngine], None], quiet: float = 0.05) -> None:
        """What a dead engine had still said: until nothing comes for ``quiet`` seconds. Raises as ``receive``."""
        heard = True
        while heard:
            heard = False
            while (frame := self._next_frame()) is not None:
                heard = True
                deliver(_decoded(frame))
            await asyncio.sleep(quiet)

    def close(self) -> None:
        """Nobody listens at the endpoint any more. Idempotent."""
        self._stop_receiving()
        self._socket.close()
        self._remove_folder()

    def _take_in(self) -> None:
        """Deliver what has arrived, in the turn in which it is read: a frame is never in between."""
        receiver = self._receiver
        if receiver is None:
            return
        try:
            for _ in range(_AT_ONCE):
                frame = self._next_frame()
                if frame is None:
                    return
                receiver.deliver(_decoded(frame))
        except Exception as error:
            self._stop_receiving()
            if not receiver.failed.done():
                receiver.failed.set_exception(error)
        else:
            receiver.loop.call_soon(self._take_in)

    def _next_frame(self) -> bytes | None:
        try:
            frame = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        self._remove_folder()
        return frame

    def _stop_receiving(self) -> None:
        if self._receiver is not None:
            self._receiver.loop.remove_reader(self._socket.fileno())
            self._receiver = None

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
