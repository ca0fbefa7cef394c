"""Lookout: what engines look like inside, for people who watch. Nobody is asked while nobody watches."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from engine.messages import CacheEvents, EngineInfo, Idle, Look, PoolPicture, Rejected, StepOutput, ToEngine
from gateway.clock import Clock, SystemClock
from gateway.replicas.loss import Loss
from gateway.replicas.supervisor import News

MOST_CELLS = 4096
INTERVAL = 0.4
"""Least seconds between two questions to one engine, however many watch."""
PATIENCE = 1.0
"""Seconds to wait for an answer; one comes between two steps."""


class Listener(Protocol):
    """Who is told of all but the pictures; the lifecycle."""

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None: ...

    def lost(self, replica: int, epoch: int, loss: Loss) -> None: ...

    def receive(self, replica: int, epoch: int, message: StepOutput | CacheEvents | Idle | Rejected) -> None: ...

    def gave_up(self, replica: int, message: str) -> None: ...


@dataclass(slots=True, eq=False)
class _Engine:
    epoch: int
    send: Callable[[ToEngine], None]
    asked: float = -math.inf
    picture: PoolPicture | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear only while a question is open."""

    def __post_init__(self) -> None:
        self.answered.set()

    @property
    def is_asked(self) -> bool:
        return not self.answered.is_set()


class Lookout:
    """Stands between supervisors and the lifecycle: passes everything on, and keeps the pictures for itself."""

    def __init__(self, listener: Listener, clock: Clock | None = None) -> None:
        self._listener = listener
        self._clock = clock or SystemClock()
        self._engines: dict[int, _Engine] = {}

    async def look(self) -> dict[int, PoolPicture]:
        """The newest picture of each replica that is up. One that does not answer in time has an older one, or none."""
        asked = [engine for engine in self._engines.values() if self._ask(engine)]
        waits = [asyncio.ensure_future(engine.answered.wait()) for engine in asked]
        if waits:
            _, late = await asyncio.wait(waits, timeout=PATIENCE)
            for wait in late:
                wait.cancel()
        return {replica: each.picture for replica, each in sorted(self._engines.items()) if each.picture is not None}

    def _ask(self, engine: _Engine) -> bool:
        """Whether an answer is to be waited for."""
        now = self._clock.now()
        if not engine.is_asked and now - engine.asked >= INTERVAL:
            engine.asked = now
            engine.answered.clear()
            engine.send(Look(cells=MOST_CELLS))
        return engine.is_asked

    # --- what supervisors report -----------------------------------------------------------------------------

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None:
        self._forget(replica)
        self._engines[replica] = _Engine(epoch, send)
        self._listener.up(replica, epoch, info, send)

    def lost(self, replica: int, epoch: int, loss: Loss) -> None:
        engine = self._engines.get(replica)
        if engine is not None and engine.epoch == epoch:
            self._forget(replica)
        self._listener.lost(replica, epoch, loss)

    def receive(self, replica: int, epoch: int, message: News) -> None:
        if not isinstance(message, PoolPicture):
            self._listener.receive(replica, epoch, message)
            return
        engine = self._engines.get(replica)
        if engine is not None and engine.epoch == epoch:
            engine.picture = message
            engine.answered.set()

    def gave_up(self, replica: int, message: str) -> None:
        self._listener.gave_up(replica, message)

    def _forget(self, replica: int) -> None:
        """Nobody waits for an answer of it any more."""
        engine = self._engines.pop(replica, None)
        if engine is not None:
            engine.answered.set()
