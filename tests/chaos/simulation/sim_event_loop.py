"""The gateway's event loop as one process of the simulation: an asyncio loop that never blocks.

Callbacks run in the order in which they were asked for, as asyncio promises. Timers of one moment run in an order
drawn by the seed, since asyncio promises none. The loop can be paused (no callback runs, time goes on), its clock can
jump, and it can be killed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from sim_kernel import Event, Kernel


class GatewayLoop(asyncio.AbstractEventLoop):
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._ties = kernel.stream("timers")
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._turn_asked = False
        self._alarm: Event | None = None
        self._skew = 0.0
        """What the clock has jumped, in seconds."""
        self._paused_until = 0.0
        self._readers: dict[int, asyncio.Handle] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.dead = False
        self.turns = 0
        self.errors: list[dict[str, Any]] = []
        """What nobody has caught."""

    # --- what the simulation does to it ------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self._kernel.now + seconds)

    def jump(self, seconds: float) -> None:
        self._skew += seconds
        self._set_alarm()

    def kill(self) -> None:
        """No callback runs any more."""
        self.dead = True

    def dissolve(self) -> None:
        """After the history: its tasks are cancelled, so that none is left unfinished."""
        self.dead, self._paused_until, self._turn_asked = False, 0.0, False
        for task in self._tasks:
            task.cancel()
        self._ask_for_turn()

    @property
    def dissolved(self) -> bool:
        return all(task.done() for task in self._tasks)

    def notify(self, descriptor: int) -> None:
        """A file descriptor that is watched has become readable."""
        if descriptor in self._readers:
            self._append(self._readers[descriptor])

    # --- what asyncio and the product ask of it ----------------------------------------------------------------

    def time(self) -> float:
        return self._kernel.now + self._skew

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._ties.random(), self._count, handle))
        self._set_alarm()
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:
        self._readers[fd] = asyncio.Handle(callback, args, self, None)

    def remove_reader(self, fd: Any) -> bool:
        handle = self._readers.pop(fd, None)
        if handle is not None:
            handle.cancel()
        return handle is not None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.errors.append(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asyncio tells its loop; a cancelled timer is passed over when its time comes."""

    # --- turns -------------------------------------------------------------------------------------------------

    def _append(self, handle: asyncio.Handle) -> None:
        self._ready.append(handle)
        self._ask_for_turn()

    def _ask_for_turn(self) -> None:
        if not self._turn_asked and not self.dead:
            self._turn_asked = True
            self._kernel.at(self._paused_until, self._turn)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._timers and self._timers[0][3].cancelled():
            heapq.heappop(self._timers)
        if self._timers and not self.dead:
            self._alarm = self._kernel.at(self._timers[0][0] - self._skew, self._ask_for_turn)

    def _turn(self) -> None:
        self._turn_asked = False
        if self.dead:
            return
        if self._kernel.now < self._paused_until:
            self._ask_for_turn()
            return
        while self._timers and self._timers[0][0] <= self.time() + 1e-9:
            self._ready.append(heapq.heappop(self._timers)[3])
        self.turns += 1
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(self._ready)):
                handle = self._ready.popleft()
                if not handle.cancelled() and not self.dead:
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
        if self._ready:
            self._ask_for_turn()
        self._set_alarm()
