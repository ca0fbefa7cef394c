"""One engine process and its socket, from its launch to its certain death: watched, heard, killed.

Liveness is progress: a heartbeat carries the step counter, which is judged against the work that is pending and against
how long the engine itself thinks the step may take. A silent or stuck engine is first asked for its stacks and then
killed, and only when it is dead for certain is it lost: a stopped process that wakes must find nobody listening.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass

from engine.messages import Alive, Drain, Failed, FromEngine, Heartbeat, Loading, Ready, Standing, StepOutput
from gateway.clock import Clock
from gateway.replicas.client import Client
from gateway.replicas.launchers import EngineProcess
from gateway.replicas.loss import Loss
from observability.records import LossKind

logger = logging.getLogger(__name__)

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""No fault of a process's own raises these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Durations in seconds."""

    check_interval: float = 0.5
    silence: float = 10.0
    """Longest without any message, once it is up: a thread that does nothing else sends one twice a second."""
    startup_silence: float = 120.0
    """The same before: importing and compiling may keep even the heartbeat's thread waiting."""
    startup_stall: float = 1800.0
    """Longest that a start-up may take to come any further: a download or a compilation can take its time."""
    stall: float = 300.0
    """Longest that the step counter may stand still while work is pending, where the engine cannot say itself;"""
    overdue: float = 5.0
    """beyond what it says, for it to end by itself and tell of a rank that is stuck."""
    dump: float = 0.5
    """Between asking for the stacks and the kill."""
    stop: float = 5.0
    """For the process to end by itself at shutdown."""
    first_backoff: float = 0.05
    longest_backoff: float = 30.0
    startup_failures: int = 3
    """Start-ups in a row that may fail before it is given up."""


class Progress:
    """What is known of an engine's liveness. Time counts in checks, so that a pause of the gateway counts once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._silent = 0.0
        self._stalled = 0.0
        self._startup_stalled = 0.0
        self._stands = False
        """Whether it waits for its turn, for as long as that takes."""
        self._step = -1
        self._may_stall = limits.stall
        self.up = False

    def heard(self, message: FromEngine) -> None:
        self._silent = 0.0
        if isinstance(message, StepOutput):
            self._stalled = 0.0
        elif isinstance(message, Heartbeat):
            if message.step != self._step or not message.pending:
                self._stalled = 0.0
            self._step = message.step
            self._may_stall = self._limits.stall if message.limit is None else message.limit + self._limits.overdue
        elif isinstance(message, (Loading, Standing)):
            self._startup_stalled = 0.0
            self._stands = isinstance(message, Standing)

    def passed(self, seconds: float) -> tuple[LossKind, str] | None:
        """Time went by; why the engine must be killed, if it must."""
        # After a pause of this process the engine's messages are waiting unread: one check is too early to judge.
        seconds = min(seconds, 2 * self._limits.check_interval)
        self._silent += seconds
        self._stalled += seconds
        silence = self._limits.silence if self.up else self._limits.startup_silence
        if self._silent > silence:
            return "silent", f"silent for {silence:g} s"
        if not self.up:
            self._startup_stalled += 0.0 if self._stands else seconds
            if self._startup_stalled > self._limits.startup_stall:
                return "stalled", f"its start-up has come no further for {self._limits.startup_stall:g} s"
        elif self._stalled > self._may_stall:
            return "stalled", f"no step for {self._may_stall:.3g} s with work pending"
        return None


@dataclass(frozen=True, slots=True)
class Ended:
    loss: Loss
    was_up: bool
    final: bool
    """Whether another start would end in the same way."""


class WatchedEngine:
    """``run`` once; ``stop`` where it shall end in order."""

    def __init__(
        self,
        process: EngineProcess,
        client: Client,
        limits: Limits,
        clock: Clock,
        deliver: Callable[[FromEngine], None],
    ) -> None:
        self._process = process
        self._client = client
        self._limits = limits
        self._clock = clock
        self._deliver = deliver
        self._progress = Progress(limits)
        self._failed: Failed | None = None
        self.pid = process.pid
        self.send = client.send

    async def run(self) -> Ended:
        """Until the process is dead and everything it said is delivered; cancelled, it is killed all the same."""
        exited = asyncio.create_task(self._process.wait())
        received = asyncio.create_task(self._client.receive(self._hear))
        watched = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((exited, received, watched), return_when=asyncio.FIRST_COMPLETED)
            if watched.done() and not exited.done():
                logger.error("engine process %d: %s; %s", self.pid, watched.result()[1], self._process.look())
                self._process.dump()
                await self._clock.sleep(self._limits.dump)
        finally:
            self._process.kill()
            received.cancel()
            watched.cancel()
            status, broken, hung = await asyncio.gather(exited, received, watched, return_exceptions=True)
        if not isinstance(broken, Exception):
            try:
                await self._client.receive_rest(self._hear)
            except Exception as error:
                broken = error
        final = self._failed is not None and self._failed.expected
        return Ended(self._loss(status, broken, hung), was_up=self._progress.up, final=final)

    def _loss(self, status: int | BaseException, broken: object, hung: object) -> Loss:
        """What it said of its end itself comes first, then what was wrong with it before it was killed."""
        executing = self._process.executing()
        if self._failed is not None:
            return Loss("error", self._failed.message, True, executing)
        if isinstance(broken, Exception):
            logger.error("engine process %d: what it said cannot be used", self.pid, exc_info=broken)
            return Loss("garbled", f"{type(broken).__name__}: {broken}", True, executing)
        if isinstance(hung, tuple):
            kind, cause = hung
            return Loss(kind, cause, True, executing)
        if isinstance(status, BaseException):
            return Loss("exit", f"cannot be watched: {status}", True, executing)
        if status < 0:
            return Loss("signal", f"killed by signal {-status}", -status not in _FROM_OUTSIDE, executing)
        return Loss("exit", f"exited with status {status}", True, executing)

    async def stop(self) -> None:
        """Asks it to end, and kills it if it does not; one that still loads has nothing to end in order."""
        if not self._progress.up:
            self._process.kill()
            await self._process.wait()
            return
        self.send(Drain())
        self._process.close_input()
        exited = asyncio.create_task(self._process.wait())
        deadline = asyncio.create_task(self._clock.sleep(self._limits.stop))
        await asyncio.wait((exited, deadline), return_when=asyncio.FIRST_COMPLETED)
        deadline.cancel()
        self._process.kill()
        await exited

    def _hear(self, message: FromEngine) -> None:
        self._progress.heard(message)
        if isinstance(message, Ready):
            self._progress.up = True
        elif isinstance(message, Failed):
            self._failed = message
        self._deliver(message)

    async def _watch(self) -> tuple[LossKind, str]:
        """Returns why the engine must be killed."""
        before = self._clock.now()
        while True:
            await self._clock.sleep(self._limits.check_interval)
            now = self._clock.now()
            cause = self._progress.passed(now - before)
            if cause is not None:
                return cause
            before = now
            self.send(Alive())
