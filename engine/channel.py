"""Channel: the engine's end of its one socket, and the heartbeat that goes over it.

The gateway hears from a healthy engine at least every ``HEARTBEAT_INTERVAL``, whatever the main thread is
doing. While the main thread is at the socket it beats itself; while it is away in a step, a thread beats in
its place, with a step counter that does not move if the step is stuck. A ZeroMQ socket may pass from one
thread to another behind a full memory barrier, which the lock is, so that tokens take no detour over a
thread of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import zmq

from engine.messages import Alive, FromEngine, Heartbeat, ToEngine, decode_to_engine, encode

HEARTBEAT_INTERVAL = 0.5
"""Seconds."""
_FAREWELL_MS = 2000
"""How long the last message may take to leave when the process ends in order."""


class Transport(Protocol):
    """What the engine's loop needs of a connection to the gateway."""

    def send(self, message: FromEngine) -> None: ...

    def receive(self, *, wait: bool) -> list[ToEngine]:
        """All messages that are there and ask for something; with ``wait``, after blocking a while for the first."""
        ...


class Channel:
    """``send`` and ``receive`` are for one thread at a time, ``beat`` for any."""

    def __init__(
        self,
        endpoint: str,
        counters: Callable[[], Heartbeat],
        heard: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect to the gateway, which binds.

        ``counters`` makes a heartbeat, in any thread. ``heard`` is called, in either thread, when something has come:
        within a step too, which may last longer than the gateway is given.
        """
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PAIR)
        # No limit on what is queued: a gateway that is briefly busy must not stop the engine in mid-step.
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._counters = counters
        self._heard = heard
        self._clock = clock
        self._inbox: list[bytes] = []
        self._lock = threading.Lock()
        self._last_beat = clock()

    def send(self, message: FromEngine) -> None:
        with self._lock:
            self._socket.send(encode(message))

    def receive(self, *, wait: bool) -> list[ToEngine]:
        """All messages that are there. With ``wait``, blocks for the first one up to a heartbeat's interval."""
        with self._lock:
            self._take_in(HEARTBEAT_INTERVAL if wait and not self._inbox else 0.0)
            frames, self._inbox = self._inbox, []
            self._beat_if_due()
        messages = map(decode_to_engine, frames)
        return [message for message in messages if not isinstance(message, Alive)]

    def beat(self) -> None:
        """Beat if it is time to, unless another thread is at the socket: then that one does."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._socket.closed:
                    self._take_in(0.0)
                    self._beat_if_due()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Give what was sent a moment to leave, then close."""
        with self._lock:
            self._socket.close(linger=_FAREWELL_MS)
            self._context.term()

    def _take_in(self, patience: float) -> None:
        while self._socket.poll(int(patience * 1000)):
            self._inbox.append(self._socket.recv())
            self._heard()
            patience = 0.0

    def _beat_if_due(self) -> None:
        now = self._clock()
        if now - self._last_beat >= HEARTBEAT_INTERVAL:
            self._last_beat = now
            self._socket.send(encode(self._counters()))
