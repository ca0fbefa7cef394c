"""Line: the socket between the engine and one rank. Length-checked frames come up it, and bells go down."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from engine.ranks.ring import LARGEST, RingError

_BYTES = 8
"""Of a length, and of a bell."""
_IDLE = 0.2
"""Seconds without a bell after which there is time for chores."""


class RankLine:
    """The rank's end. The engine is gone where ``wait`` meets the end of the stream: EOFError."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.chore: Callable[[], bool] = lambda: False
        """A little that can be done while nothing is asked of the rank; False where nothing is left to do."""

    def send(self, frame: bytes) -> None:
        self._socket.sendall(len(frame).to_bytes(_BYTES, "little") + frame)

    def wait(self) -> int:
        """The next bell."""
        if not self._poll.poll(_IDLE * 1000):
            while self.chore() and not self._poll.poll(0):
                pass
        found = self._socket.recv(_BYTES, socket.MSG_WAITALL)
        if len(found) < _BYTES:
            raise EOFError("the engine is gone")
        return int.from_bytes(found, "little")


class EngineLine:
    """The engine's end. What has arrived is collected until it is a frame; nothing here waits."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._arrived = bytearray()
        self.ended = False
        """Whether the rank has closed its end."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def ring(self, written: int) -> None:
        """Nothing happens where the rank is gone: that is noticed otherwise."""
        try:
            self._socket.sendall(written.to_bytes(_BYTES, "little"))
        except (BrokenPipeError, ConnectionResetError):
            self.ended = True

    def collect(self) -> None:
        """Take in what is there."""
        try:
            while not self.ended:
                more = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
                self.ended = not more
                self._arrived += more
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True

    def frame(self) -> bytes | None:
        """The next whole frame. Raises RingError where a length cannot be one."""
        if len(self._arrived) < _BYTES:
            return None
        length = int.from_bytes(self._arrived[:_BYTES], "little")
        if not 0 < length <= LARGEST:
            raise RingError(f"a frame of {length} bytes; 1 to {LARGEST} can be sent")
        if len(self._arrived) < _BYTES + length:
            return None
        frame = bytes(self._arrived[_BYTES : _BYTES + length])
        del self._arrived[: _BYTES + length]
        return frame

    def close(self) -> None:
        self._socket.close()
