"""Simulated time: events in the order of (time, seeded tie-break), and a source of randomness for each purpose.

Nothing waits for real. The next event's time is what the clock says next, so a history of minutes takes milliseconds.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn
from zlib import crc32

_TRACED = 400
"""Notes that are kept for a report."""


class Violation(AssertionError):  # noqa: N818 - it is what the tests look for
    """An invariant does not hold."""


class Event:
    """A call that is to come; ``cancel`` is idempotent."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class Kernel:
    """Everything that happens in one history happens in a call made by ``run``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.random = self.stream("world")
        self._digest = 0
        self._ties = self.stream("ties")
        self._events: list[tuple[float, float, int, Event]] = []
        self._count = 0
        self._notes: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=_TRACED)
        self._violation: Violation | None = None
        self.after_event: Callable[[], None] = lambda: None
        """Looks at everything once an event is over."""

    def stream(self, purpose: str) -> random.Random:
        """Numbers of its own for each purpose, so that one does not change with how often another draws."""
        return random.Random(f"{self.seed}/{purpose}")

    def at(self, when: float, call: Callable[[], object]) -> Event:
        event = Event(call)
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._ties.random(), self._count, event))
        return event

    def after(self, delay: float, call: Callable[[], object]) -> Event:
        return self.at(self.now + delay, call)

    def note(self, *what: object) -> None:
        """For the report of a failure."""
        self._digest = crc32(repr((self.now, self._count, [str(each) for each in what])).encode(), self._digest)
        self._notes.append((self.now, what))

    def fail(self, what: str) -> NoReturn:
        """An invariant does not hold. ``run`` raises it as well, for the product may have caught it here."""
        self._violation = self._violation or Violation(what)
        raise self._violation

    @property
    def digest(self) -> str:
        """Of all that was noted, and of how much happened in between: equal for equal histories."""
        return f"{crc32(repr((self.now, self._count)).encode(), self._digest):08x}"

    def trace(self) -> list[str]:
        return [f"{when:11.6f}  {' '.join(map(str, what))}" for when, what in self._notes]

    def dissolve(self, done: Callable[[], bool], limit: float) -> None:
        """The history is over: what is still to happen happens, and is not judged any more."""
        end = self.now + limit
        while self._events and not done():
            when, _, _, event = heapq.heappop(self._events)
            if when > end:
                return
            self.now = when
            if event.call is not None:
                with suppress(Exception):
                    event.call()

    def sleep(self, seconds: float) -> None:
        """Let time pass, and with it what happens."""
        end = self.now + seconds
        self.at(end, lambda: None)
        self.run(lambda: self.now >= end, seconds, "time passes")

    def run(self, done: Callable[[], bool], limit: float, what: str) -> None:
        """Until ``done`` says so, which must come within ``limit`` simulated seconds."""
        end = self.now + limit
        while not done():
            if not self._events:
                raise Violation(f"nothing is left to happen, and still not: {what}")
            when, _, _, event = heapq.heappop(self._events)
            if event.call is None:
                continue
            if when > end:
                raise Violation(f"not within {limit:g} s: {what}")
            self.now = when
            event.call()
            if self._violation is not None:
                raise self._violation
            self.after_event()
