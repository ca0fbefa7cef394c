"""The accepted requests that are not over: how many there are, how many wait, and their numbers when they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from gateway.clock import Clock
from gateway.completion.choice import ActiveRequest
from gateway.completion.timeline import trace_of
from gateway.errors import APIError
from observability.records import Record, Recorder

logger = logging.getLogger(__name__)


class Book:
    """Kept by the lifecycle alone."""

    def __init__(self, record: Recorder, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._requests: dict[str, ActiveRequest] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.queued_requests = 0
        """Requests of which an engine has computed nothing yet, and below their prompt tokens."""
        self.queued_tokens = 0

    def __iter__(self) -> Iterator[ActiveRequest]:
        return iter(list(self._requests.values()))

    @property
    def running_requests(self) -> int:
        """Those that an engine has begun."""
        return len(self._requests) - self.queued_requests

    def enter(self, active: ActiveRequest) -> None:
        active.now = self._clock.now
        self._requests[active.request.id] = active
        self._idle.clear()
        self.queued_requests += 1
        self.queued_tokens += active.request.num_prompt_tokens

    def begin(self, active: ActiveRequest) -> None:
        """An engine computes some of it. Idempotent."""
        if not active.begun:
            active.begun = True
            self.queued_requests -= 1
            self.queued_tokens -= active.request.num_prompt_tokens

    def strike(self, active: ActiveRequest, error: APIError | None) -> None:
        """The request has had its terminal output."""
        self.begin(active)
        del self._requests[active.request.id]
        if not self._requests:
            self._idle.set()
        now = self._clock.now()
        self.report(active.stats(now, error))
        if active.request.traceparent:
            self.report(trace_of(active, now, error))

    def report(self, record: Record, replica: int = 0) -> None:
        """Numbers are never worth a stream."""
        try:
            self._record(record, replica=str(replica))
        except Exception:
            logger.exception("a record could not be taken")

    async def wait_idle(self) -> None:
        """Until no request is left."""
        await self._idle.wait()
