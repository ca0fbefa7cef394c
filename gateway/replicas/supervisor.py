"""One replica's engine processes, one after another: spawned, watched, killed, restarted. Says Up and Lost.

Liveness is progress: a heartbeat carries the step counter, which is judged against the work that is pending. A silent
or stuck engine is first asked for its stacks and then killed, and only when it is dead for certain is it Lost: a
stopped process that wakes must find nobody listening.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import zmq

from engine.config import EngineConfig
from engine.messages import (
    Alive,
    CacheEvents,
    Drain,
    EngineInfo,
    Failed,
    FromEngine,
    Heartbeat,
    Idle,
    Loading,
    Ready,
    Rejected,
    StepOutput,
    ToEngine,
)
from gateway.clock import Clock, SystemClock
from gateway.replicas.client import Client
from gateway.replicas.launchers import EngineProcess, Launcher
from gateway.replicas.loss import Loss
from observability.records import LossKind

logger = logging.getLogger(__name__)

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""No fault of a process's own raises these."""


class Listener(Protocol):
    """Who is told; the lifecycle."""

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None: ...

    def lost(self, replica: int, epoch: int, loss: Loss) -> None: ...

    def receive(self, replica: int, epoch: int, message: StepOutput | CacheEvents | Idle | Rejected) -> None: ...

    def gave_up(self, replica: int, message: str) -> None: ...


class EngineGoneError(Exception):
    """The engine will not be started again; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Durations in seconds."""

    check_interval: float = 0.5
    silence: float = 10.0
    """Longest without any message, once it is up: a thread that does nothing else sends one twice a second."""
    startup_silence: float = 120.0
    """The same before: importing and compiling may keep even the heartbeat's thread waiting."""
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

    def passed(self, seconds: float) -> tuple[LossKind, str] | None:
        """Time went by; why the engine must be killed, if it must."""
        # After a pause of this process the engine's messages are waiting unread: one check is too early to judge.
        seconds = min(seconds, 2 * self._limits.check_interval)
        self._silent += seconds
        self._stalled += seconds
        silence = self._limits.silence if self.up else self._limits.startup_silence
        if self._silent > silence:
            return "silent", f"silent for {silence:g} s"
        if self.up and self._stalled > self._may_stall:
            return "stalled", f"no step for {self._may_stall:.3g} s with work pending"
        return None


class Supervisor:
    """``start`` once, ``stop`` once; ``wait_ready`` between them, for the banner."""

    def __init__(
        self,
        config: EngineConfig,
        launcher: Launcher,
        listener: Listener,
        *,
        replica: int = 0,
        on_loading: Callable[[Loading], None] = lambda _: None,
        clock: Clock | None = None,
        limits: Limits | None = None,
        connect: Callable[[int, int], Client] | None = None,
    ) -> None:
        """``connect(replica, epoch)`` makes the transport of one incarnation."""
        self._config = config
        self._launcher = launcher
        self._listener = listener
        self._replica = replica
        self._on_loading = on_loading
        self._clock = clock or SystemClock()
        self._limits = limits or Limits()
        self._connect = connect or _connect
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[EngineInfo] | None = None
        self._incarnation: _Incarnation | None = None
        self._backoff = self._limits.first_backoff
        self._stopping = False
        self.epoch = 0
        """Of the newest incarnation; they count from 1."""

    @property
    def pid(self) -> int | None:
        """Of the engine process, while there is one."""
        return self._incarnation.pid if self._incarnation is not None else None

    def start(self) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._guarded_run(), name=f"supervisor {self._replica}")

    async def wait_ready(self) -> EngineInfo:
        """Until the first engine is up. Raises ``EngineGoneError`` where none will be."""
        assert self._ready is not None, "start() comes first"
        return await asyncio.shield(self._ready)

    async def stop(self) -> None:
        """Ends the engine, by itself or killed, and returns when no process is left. Idempotent."""
        self._stopping = True
        if self._task is None:
            return
        if self._incarnation is not None:
            await self._incarnation.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._ready is not None and not self._ready.done():
            self._ready.cancel()

    async def _guarded_run(self) -> None:
        """A fault of ours must not leave the gateway waiting for an engine that nobody starts."""
        try:
            await self._run()
        except Exception as error:
            logger.exception("engine %d: its supervisor failed", self._replica)
            self._give_up(f"{type(error).__name__}: {error}")

    async def _run(self) -> None:
        failures = 0
        while True:
            self.epoch += 1
            ended = await self._incarnate()
            if self._stopping:
                return
            failures = 0 if ended.was_up else failures + 1
            if ended.final or failures >= self._limits.startup_failures:
                self._give_up(ended.loss.cause)
                return
            logger.warning("engine %d.%d: %s; restarting", self._replica, self.epoch, ended.loss.cause)
            await self._clock.sleep(self._backoff)
            self._backoff = min(2 * self._backoff, self._limits.longest_backoff)

    async def _incarnate(self) -> _Ended:
        """One process from its launch to its certain death."""
        client = self._connect(self._replica, self.epoch)
        try:
            try:
                process = await self._launch(client.endpoint)
            except OSError as error:
                cause = f"the engine process cannot be started: {error}"
                return _Ended(Loss("error", cause, own_doing=True), was_up=False, final=False)
            self._incarnation = _Incarnation(process, client, self._limits, self._clock, self._deliver)
            try:
                ended = await self._incarnation.run()
            finally:
                self._incarnation = None
        finally:
            client.close()
        if ended.was_up:
            self._listener.lost(self._replica, self.epoch, ended.loss)
        return ended

    async def _launch(self, endpoint: str) -> EngineProcess:
        """Cancelled half-way, it leaves no process behind."""
        launching = asyncio.ensure_future(self._launcher.launch(self._config, endpoint=endpoint, epoch=self.epoch))
        try:
            return await asyncio.shield(launching)
        except asyncio.CancelledError:
            process = await launching
            process.kill()
            await process.wait()
            raise

    def _deliver(self, message: FromEngine) -> None:
        match message:
            case StepOutput() | CacheEvents() | Idle() | Rejected():
                if isinstance(message, StepOutput) and any(output.ids for output in message.outputs):
                    self._backoff = self._limits.first_backoff
                self._listener.receive(self._replica, self.epoch, message)
            case Loading():
                self._on_loading(message)
            case Ready():
                assert self._incarnation is not None
                self._listener.up(self._replica, self.epoch, message.info, self._incarnation.send)
                if self._ready is not None and not self._ready.done():
                    self._ready.set_result(message.info)
            case _:
                pass

    def _give_up(self, cause: str) -> None:
        self._listener.gave_up(self._replica, cause)
        if self._ready is not None and not self._ready.done():
            # Whoever waits for the start says why it failed.
            self._ready.set_exception(EngineGoneError(cause))
            self._ready.exception()  # whether anybody waits for it or not
        else:
            logger.error("engine %d is given up: %s", self._replica, cause)


@dataclass(frozen=True, slots=True)
class _Ended:
    loss: Loss
    was_up: bool
    final: bool
    """Whether another start would end in the same way."""


class _Incarnation:
    """One process and its socket."""

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

    async def run(self) -> _Ended:
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
        return _Ended(self._loss(status, broken, hung), was_up=self._progress.up, final=final)

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


def _connect(replica: int, epoch: int) -> Client:
    return Client(zmq.Context.instance(), replica, epoch)
