"""Patience: how long ranks may take over the steps they have been given, from how long they took over recent ones."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

RECENT = 32
"""Steps that a prediction is made from."""
FACTOR = 5.0
"""Times the predicted duration after which a step is stuck,"""
LEAST = 10.0
"""but not before so many seconds."""


class Patience:
    """Steps end in the order in which they began; several may be under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way: deque[tuple[int, float]] = deque()
        """Tokens of each step, and when it began."""
        self._last_end = clock()
        self._seconds_per_token: deque[float] = deque(maxlen=RECENT)

    def begin(self, tokens: int) -> None:
        self._under_way.append((tokens, self._clock()))

    def end(self) -> None:
        """The oldest step has ended."""
        tokens, began = self._under_way.popleft()
        now = self._clock()
        self._seconds_per_token.append((now - max(began, self._last_end)) / tokens)
        self._last_end = now

    @property
    def predicted(self) -> float:
        """Seconds for all that is under way, at the slowest pace of the recent steps; 0 while there were none."""
        return max(self._seconds_per_token, default=0.0) * sum(tokens for tokens, _ in self._under_way)

    def left(self) -> float | None:
        """Seconds until the oldest step is stuck, less than 0 once it is; None while there is nothing to go by."""
        if not self._under_way or not self._seconds_per_token:
            return None
        since = max(self._under_way[0][1], self._last_end)
        return since + max(LEAST, FACTOR * self.predicted) - self._clock()
