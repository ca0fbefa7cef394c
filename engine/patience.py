"""Patience: how long a step may take, from how long recent steps of about as many tokens took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

RECENT = 32
"""Steps of one size that a prediction is made from."""
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
        self._recent: dict[int, tuple[deque[float], deque[float]]] = {}
        """Seconds of steps, and seconds for each token of them, by the size of a step: binary digits of its tokens."""

    def begin(self, tokens: int) -> None:
        self._under_way.append((tokens, self._clock()))

    def end(self) -> None:
        """The oldest step has ended."""
        tokens, began = self._under_way[0]
        now = self._clock()
        seconds = now - max(began, self._last_end)
        if seconds > LEAST and (limit := self.limit) is not None:
            # A process that was stopped for an hour, or a clock that jumped, must not make a stuck step last for hours.
            seconds = min(seconds, limit)
        self._under_way.popleft()
        size = tokens.bit_length()
        if size not in self._recent:
            self._recent[size] = (deque(maxlen=RECENT), deque(maxlen=RECENT))
        for known, value in zip(self._recent[size], (seconds, seconds / tokens), strict=True):
            known.append(value)
        self._last_end = now

    @property
    def predicted(self) -> float:
        """Seconds for all that is under way, as slow as the slowest of the recent steps; 0 while there were none."""
        return sum(self._predict(tokens) for tokens, _ in self._under_way) if self._recent else 0.0

    @property
    def limit(self) -> float | None:
        """Seconds after which the oldest step is stuck; None while there is nothing to go by.

        Where no step is under way it is how long the next one may be in coming.
        """
        if not self._under_way:
            return LEAST
        return max(LEAST, FACTOR * self.predicted) if self._recent else None

    def left(self) -> float | None:
        """Seconds until the oldest step is stuck, less than 0 once it is; None as for ``limit``, or with no step."""
        limit = self.limit
        if not self._under_way or limit is None:
            return None
        return max(self._under_way[0][1], self._last_end) + limit - self._clock()

    def _predict(self, tokens: int) -> float:
        """From steps of the same size, or the next smaller, or else the next larger: a step takes no less time than
        one of fewer tokens, and no more than in proportion."""
        nearest = tokens.bit_length()
        if nearest not in self._recent:
            nearest = max((size for size in self._recent if size < nearest), default=min(self._recent))
        seconds, paces = self._recent[nearest]
        return max(max(seconds), tokens * max(paces))
