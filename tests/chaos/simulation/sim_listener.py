"""Between the supervisors and the lifecycle: it looks at what is sent, and repeats what was said."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.messages import CacheEvents, EngineInfo, Idle, Rejected, Start, StepOutput, ToEngine
from gateway.replicas.loss import Loss

if TYPE_CHECKING:
    from sim_gateway import SimGateway


class Listener:
    """Between supervisors and the lifecycle: hands on what is said, looks at what is sent, and repeats itself.

    What an engine has said is said again, now and then, after it was Lost: the epoch tells the lifecycle that it means
    nothing any more.
    """

    def __init__(self, gateway: SimGateway) -> None:
        self._gateway = gateway
        self._random = gateway.kernel.stream("listener")
        self._last_place: dict[str, tuple[int, int]] = {}
        self._restarts: Counter[str] = Counter()
        self._suspected: Counter[str] = Counter()
        self._said: dict[tuple[int, int], list[StepOutput | CacheEvents | Idle | Rejected]] = {}

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None:
        def tapped(message: ToEngine) -> None:
            if isinstance(message, Start):
                self._look_at_start(message, (replica, epoch))
            send(message)

        self._gateway.lifecycle.up(replica, epoch, info, tapped)
        self._gateway.streams.ready()

    def lost(self, replica: int, epoch: int, loss: Loss) -> None:
        self._gateway.lifecycle.lost(replica, epoch, loss)
        for message in self._said.pop((replica, epoch), []):
            if self._random.random() < 0.2:
                again = functools.partial(self._gateway.lifecycle.receive, replica, epoch, message)
                self._gateway.loop.call_later(self._random.uniform(0, 3), again)

    def receive(self, replica: int, epoch: int, message: StepOutput | CacheEvents | Idle | Rejected) -> None:
        said = self._said.setdefault((replica, epoch), [])
        if len(said) < 20 and self._random.random() < 0.5:
            said.append(message)
        self._gateway.lifecycle.receive(replica, epoch, message)

    def gave_up(self, replica: int, message: str) -> None:
        self._gateway.lifecycle.gave_up(replica, message)
        self._gateway.streams.ready()

    def _look_at_start(self, start: Start, where: tuple[int, int]) -> None:
        if self._last_place.get(start.id) == where:
            self._restarts[start.id] += 1
            # A suspect that has been cleared makes room for the next one.
            causes = self._gateway.table.lost_outputs[start.id] + self._suspected[start.id]
            if self._restarts[start.id] > causes:
                self._gateway.kernel.fail(f"{start.id} is started again where nothing of it was lost")
        self._last_place[start.id] = where
        self._suspected[start.id] += start.at_once
        choice = self._gateway.lifecycle._state.choices.get(start.id)
        if choice is None:
            self._gateway.kernel.fail(f"{start.id} is started, and has ended")
        if self._gateway.draining and not choice.request.emitted:
            self._gateway.kernel.fail(f"{start.id} is started by a server that drains")
