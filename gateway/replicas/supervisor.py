"""One replica's engine processes, one after another: spawned, watched, killed, restarted. Says Up and Lost.

With ``standby`` there is a second process: as soon as one serves, another loads its weights and waits. When the first
is lost, the other has only to make its cache. Nobody else hears of it before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import zmq

from engine.config import EngineConfig
from engine.messages import (
    CacheEvents,
    EngineInfo,
    FromEngine,
    Idle,
    Loading,
    PoolPicture,
    Ready,
    Rejected,
    Serve,
    Standing,
    StepOutput,
    ToEngine,
)
from gateway.clock import Clock, SystemClock
from gateway.replicas.client import Client
from gateway.replicas.launchers import EngineProcess, Launcher
from gateway.replicas.loss import Loss
from gateway.replicas.watched_engine import Ended, Limits, WatchedEngine

logger = logging.getLogger(__name__)

News: TypeAlias = StepOutput | CacheEvents | Idle | Rejected | PoolPicture
"""What an engine that is up says to others than its supervisor."""


class Listener(Protocol):
    """Who is told; the lifecycle."""

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None: ...

    def lost(self, replica: int, epoch: int, loss: Loss) -> None: ...

    def receive(self, replica: int, epoch: int, message: News) -> None: ...

    def gave_up(self, replica: int, message: str) -> None: ...


class EngineGoneError(Exception):
    """The engine will not be started again; the message is for the person at the terminal."""


class Supervisor:
    """``start`` once, ``stop`` once; ``wait_ready`` between them, for the banner."""

    def __init__(
        self,
        config: EngineConfig,
        launcher: Launcher,
        listener: Listener,
        *,
        replica: int = 0,
        standby: bool = False,
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
        self._standby = standby
        self._on_loading = on_loading
        self._clock = clock or SystemClock()
        self._limits = limits or Limits()
        self._connect = connect or _connect
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[EngineInfo] | None = None
        self._serving: _Incarnation | None = None
        """The one that serves, or is the next to."""
        self._spare: _Incarnation | None = None
        self._backoff = self._limits.first_backoff
        self._stopping = False
        self._incarnations = 0
        self.epoch = 0
        """Of the incarnation that serves, or is the next to; they count from 1."""

    @property
    def pid(self) -> int | None:
        """Of the process that serves or is the next to, while there is one."""
        engine = self._serving.engine if self._serving is not None else None
        return engine.pid if engine is not None else None

    @property
    def spare_pid(self) -> int | None:
        """Of the process that stands by, once it has loaded its weights."""
        return self._spare.engine.pid if self._spare is not None and self._spare.stands and self._spare.engine else None

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
        if self._serving is not None and self._serving.engine is not None:
            await self._serving.engine.stop()
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
        finally:
            if self._spare is not None:
                await self._spare.end()

    async def _run(self) -> None:
        failures = 0
        while True:
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

    async def _incarnate(self) -> Ended:
        """One process until its certain death: from its launch, or from when its turn has come."""
        incarnation, self._spare = self._spare or self._launch(standby=False), None
        self._serving, self.epoch = incarnation, incarnation.epoch
        incarnation.take_turn(self._clock.now())
        try:
            ended = await asyncio.shield(incarnation.task)
        finally:
            await incarnation.end()
            self._serving = None
        if ended.was_up:
            self._listener.lost(self._replica, self.epoch, ended.loss)
        return ended

    def _launch(self, *, standby: bool) -> _Incarnation:
        self._incarnations += 1
        epoch = self._incarnations
        client = self._connect(self._replica, epoch)

        async def launch() -> WatchedEngine:
            process = await _launched(
                self._launcher.launch(self._config, endpoint=client.endpoint, epoch=epoch, standby=standby)
            )
            return WatchedEngine(process, client, self._limits, self._clock, lambda said: self._hear(incarnation, said))

        incarnation = _Incarnation(epoch, client, launch)
        return incarnation

    def _hear(self, incarnation: _Incarnation, message: FromEngine) -> None:
        if isinstance(message, Standing):
            incarnation.stand()
        elif incarnation is self._serving:
            self._deliver(incarnation, message)

    def _deliver(self, incarnation: _Incarnation, message: FromEngine) -> None:
        match message:
            case StepOutput() | CacheEvents() | Idle() | Rejected() | PoolPicture():
                if isinstance(message, StepOutput) and any(output.ids for output in message.outputs):
                    self._backoff = self._limits.first_backoff
                self._listener.receive(self._replica, incarnation.epoch, message)
            case Loading():
                self._on_loading(message)
            case Ready():
                if incarnation.epoch > 1:
                    self._tell_of_restart(incarnation, message.info)
                self._listener.up(self._replica, incarnation.epoch, message.info, incarnation.client.send)
                if self._ready is not None and not self._ready.done():
                    self._ready.set_result(message.info)
                if self._standby and self._spare is None:
                    self._spare = self._launch(standby=True)
                    self._spare.task.add_done_callback(self._spare_ended)
            case _:
                pass

    def _tell_of_restart(self, incarnation: _Incarnation, info: EngineInfo) -> None:
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in info.load_seconds.items())
        since = self._clock.now() - incarnation.turn_at
        logger.info("engine %d.%d serves after %.1f s (%s)", self._replica, incarnation.epoch, since, stages)

    def _spare_ended(self, task: asyncio.Task[Ended]) -> None:
        """Nobody waits for it. The next one comes with the next engine that serves."""
        if self._spare is not None and self._spare.task is task and not self._stopping and not task.cancelled():
            logger.warning("engine %d.%d stood by: %s", self._replica, self._spare.epoch, task.result().loss.cause)
            self._spare = None

    def _give_up(self, cause: str) -> None:
        self._listener.gave_up(self._replica, cause)
        if self._ready is not None and not self._ready.done():
            # Whoever waits for the start says why it failed.
            self._ready.set_exception(EngineGoneError(cause))
            self._ready.exception()  # whether anybody waits for it or not
        else:
            logger.error("engine %d is given up: %s", self._replica, cause)


class _Incarnation:
    """One process, from its launch on: in a task of its own, since one that stands by is waited for by nobody."""

    def __init__(self, epoch: int, client: Client, launch: Callable[[], Awaitable[WatchedEngine]]) -> None:
        self.epoch = epoch
        self.client = client
        self.engine: WatchedEngine | None = None
        """While its process lives."""
        self.stands = False
        """Whether it has loaded its weights and waits for its turn."""
        self._has_turn = False
        self.turn_at = 0.0
        """When it was its turn to serve: at its launch, or when the one before was lost."""
        self._launch = launch
        self.task = asyncio.create_task(self._run(), name=f"engine {epoch}")

    def take_turn(self, now: float) -> None:
        self._has_turn, self.turn_at = True, now
        if self.stands:
            self.stand()

    def stand(self) -> None:
        """It has loaded its weights. (Before it says so it could not be told: nothing is kept for one who has not
        connected.)"""
        self.stands = not self._has_turn
        if self._has_turn:
            self.client.send(Serve())

    async def end(self) -> None:
        """Kills the process, if there is one, and returns when it is dead."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> Ended:
        try:
            try:
                self.engine = await self._launch()
            except OSError as error:
                loss = Loss("error", f"the engine process cannot be started: {error}", own_doing=True)
                return Ended(loss, was_up=False, final=False)
            return await self.engine.run()
        finally:
            self.engine, self.stands = None, False
            self.client.close()


async def _launched(launching: Awaitable[EngineProcess]) -> EngineProcess:
    """Cancelled half-way, it leaves no process behind."""
    task = asyncio.ensure_future(launching)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        process = await task
        process.kill()
        await process.wait()
        raise


def _connect(replica: int, epoch: int) -> Client:
    return Client(zmq.Context.instance(), replica, epoch)
