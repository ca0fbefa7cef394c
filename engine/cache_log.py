"""CacheLog: what has become findable in a prefix cache, and what no longer is, since somebody last asked."""

from __future__ import annotations

from engine.messages import CacheEvents


class CacheLog:
    """Written by the BlockPool. What was stored and evicted in between leaves no trace, so it is never longer than the
    pool before and the pool after."""

    def __init__(self) -> None:
        self._stored: dict[bytes, None] = {}
        """In the order in which they were stored."""
        self._evicted: dict[bytes, None] = {}

    def stored(self, digest: bytes) -> None:
        if digest in self._evicted:
            del self._evicted[digest]
        else:
            self._stored[digest] = None

    def evicted(self, digest: bytes) -> None:
        if digest in self._stored:
            del self._stored[digest]
        else:
            self._evicted[digest] = None

    def take(self) -> CacheEvents | None:
        """The difference since the last call; None where there is none."""
        if not self._stored and not self._evicted:
            return None
        events = CacheEvents(stored=list(self._stored), evicted=list(self._evicted))
        self._stored, self._evicted = {}, {}
        return events
