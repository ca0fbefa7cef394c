"""A supervisor among a clock, a transport and a process host that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from engine_for_tests import STATS

from engine.config import EngineConfig
from engine.messages import Alive, EngineInfo, FromEngine, Rejected, StepOutput, ToEngine, Tokens
from gateway.replicas.client import Client
from gateway.replicas.launchers import EngineProcess, Launcher
from gateway.replicas.loss import Loss
from gateway.replicas.supervisor import Supervisor
from gateway.replicas.watched_engine import Limits

TOKEN = StepOutput(started=[], outputs=[Tokens(id="r:0", attempt=1, at=0, ids=[5])], stats=[STATS])
LIMITS = Limits(
    check_interval=1,
    silence=10,
    startup_silence=50,
    startup_stall=100,
    stall=30,
    overdue=5,
    dump=1,
    stop=5,
    first_backoff=1,
    longest_backoff=8,
)


class ManualClock:
    def __init__(self) -> None:
        self.time = 0.0
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        waiter = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.time + seconds, waiter))
        await waiter

    async def pass_by(self, seconds: float) -> None:
        end = self.time + seconds
        while due := [item for item in self.sleepers if item[0] <= end and not item[1].done()]:
            at, waiter = min(due, key=lambda item: item[0])
            self.time = max(self.time, at)
            waiter.set_result(None)
            await settle()
        self.time = end
        await settle()


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


class FakeProcess(EngineProcess):
    def __init__(self, log: list[str], pid: int, ends_by_itself: bool) -> None:
        self.log, self.pid, self.ends_by_itself = log, pid, ends_by_itself
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self.exit)

    def dump(self) -> None:
        self.log.append("dump")

    def close_input(self) -> None:
        self.log.append("input closed")
        if self.ends_by_itself:
            self.die(0)

    def kill(self) -> None:
        if not self.exit.done():
            self.log.append("kill")
            asyncio.get_running_loop().call_soon(self.die, -9)

    def die(self, status: int) -> None:
        if not self.exit.done():
            self.log.append("dead")
            self.exit.set_result(status)


class FakeClient(Client):
    def __init__(self, log: list[str]) -> None:
        self.log, self.endpoint = log, "fake"
        self.incoming: asyncio.Queue[FromEngine | Exception] = asyncio.Queue()
        self.unheard: list[FromEngine] = []
        """Said, and still in the socket when the process died."""
        self.sent: list[ToEngine] = []

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)

    async def receive(self, deliver: Callable[[FromEngine], None]) -> None:
        while True:
            message = await self.incoming.get()
            if isinstance(message, Exception):
                raise message
            deliver(message)

    async def receive_rest(self, deliver: Callable[[FromEngine], None], quiet: float = 0.05) -> None:
        for message in self.unheard:
            deliver(message)

    def close(self) -> None:
        self.log.append("closed")


class FakeLauncher(Launcher):
    def __init__(self, world: World) -> None:
        self.world = world
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def launch(self, config: EngineConfig, *, endpoint: str, epoch: int, standby: bool = False) -> FakeProcess:
        await self.gate.wait()
        if self.fails:
            raise OSError("no more processes")
        self.world.log.append(f"launch {epoch}{' to stand by' if standby else ''}")
        process = FakeProcess(self.world.log, 1000 + epoch, self.world.ends_by_itself)
        self.world.processes.append(process)
        return process


class World:
    """A supervisor, all that it is given, and a log of what it does; it is the listener, too."""

    def __init__(self, *, standby: bool = False) -> None:
        self.log: list[str] = []
        self.kinds: list[str] = []
        self.clock = ManualClock()
        self.processes: list[FakeProcess] = []
        self.clients: list[FakeClient] = []
        self.ends_by_itself = True
        self.launcher = FakeLauncher(self)
        self.supervisor = Supervisor(
            EngineConfig(model="m"),
            self.launcher,
            self,
            clock=self.clock,
            limits=LIMITS,
            standby=standby,
            connect=self.connect,
            on_loading=lambda message: self.log.append(f"loading {message.stage}"),
        )

    def connect(self, replica: int, epoch: int) -> Client:
        self.clients.append(FakeClient(self.log))
        return self.clients[-1]

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None:
        self.log.append(f"up {epoch}")

    def lost(self, replica: int, epoch: int, loss: Loss) -> None:
        self.log.append(f"lost {epoch}: {loss.cause}")
        self.kinds.append(loss.kind)

    def receive(self, replica: int, epoch: int, message: StepOutput | Rejected) -> None:
        self.log.append(f"received {epoch}")

    def gave_up(self, replica: int, message: str) -> None:
        self.log.append(f"gave up: {message}")

    def asked(self, incarnation: int) -> list[ToEngine]:
        """What it was told beside signs of life; they count from 0."""
        return [message for message in self.clients[incarnation].sent if not isinstance(message, Alive)]

    async def say(self, *messages: FromEngine | Exception) -> None:
        for message in messages:
            self.clients[-1].incoming.put_nowait(message)
        await settle()

    async def die(self, status: int = 1) -> None:
        self.processes[-1].die(status)
        await settle()

    def take_log(self) -> list[str]:
        log, self.log[:] = self.log.copy(), []
        return log


@contextlib.asynccontextmanager
async def supervised(*, standby: bool = False) -> AsyncIterator[World]:
    world = World(standby=standby)
    world.supervisor.start()
    await settle()
    try:
        yield world
    finally:
        world.ends_by_itself = True
        for process in world.processes:
            process.ends_by_itself = True
        await world.supervisor.stop()
        assert all(process.exit.done() for process in world.processes)
