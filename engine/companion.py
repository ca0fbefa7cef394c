"""A thread that does one thing at a time beside its owner, and is cheap to start on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Companion:
    """``start`` and ``join`` in turns, from one thread; ``close`` at the end.

    Two locks are handed to and fro and nothing else is made: a ThreadPoolExecutor, when it was tried, took 50 to
    100 µs more of every step.
    """

    def __init__(self, name: str) -> None:
        self._work: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._begun, self._done = threading.Lock(), threading.Lock()
        self._begun.acquire()
        self._done.acquire()
        # A daemon: its owner may end by an exception, and nothing here outlives a step.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def start(self, work: Callable[[], None]) -> None:
        self._work = work
        self._begun.release()

    def join(self) -> None:
        """Wait for what was started; an exception of it is raised here."""
        self._done.acquire()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """End the thread. What was started has been joined."""
        self._work = None
        self._begun.release()

    def __enter__(self) -> Companion:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            self._begun.acquire()
            if self._work is None:
                return
            try:
                self._work()
            except BaseException as error:
                self._error = error
            self._done.release()
