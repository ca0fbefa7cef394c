"""The process table: the engine processes that one gateway process has started."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from sim_event_loop import GatewayLoop
from sim_kernel import Kernel
from sim_network import Network
from sim_process import SimProcess
from sim_world import Shape

from engine.batch import ScheduledBatch
from engine.config import EngineConfig
from engine.messages import StepOutput
from gateway.head_start import HeadStart
from gateway.replicas.launchers import Launcher


class ProcessTable(Launcher):
    def __init__(
        self,
        kernel: Kernel,
        network: Network,
        loop: GatewayLoop,
        shape: Shape,
        *,
        head_start: HeadStart | None = None,
    ) -> None:
        self.kernel, self.network, self.loop, self.shape = kernel, network, loop, shape
        self.random = kernel.stream("processes")
        self.processes: list[SimProcess] = []
        self.unjust: list[str] = []
        """Engines that were killed though nothing had been done to them."""
        self.broken: list[tuple[SimProcess, Exception]] = []
        """Engines that ended by an exception though nothing had been done to them."""
        self.stopping = False
        self.trouble = 0.0
        """Share of start-ups that fail."""
        self.check_output: Callable[[SimProcess, StepOutput], None] = lambda process, message: None
        self.compute: Callable[[SimProcess, ScheduledBatch], None] = lambda process, batch: None
        """Called in each step, when it has been computed."""
        self.active: list[SimProcess] = []
        """Those that have run since somebody last looked."""
        self.deaths = 0
        self.found: Counter[str] = Counter()
        """Deaths in steps that computed a choice, by choice."""
        self.unknown = 0
        """Deaths of which nobody knows what was computed."""
        self.lost_outputs: Counter[str] = Counter()
        """Messages of tokens that engines have lost, by choice."""

    async def launch(self, config: EngineConfig, *, endpoint: str, epoch: int, standby: bool = False) -> SimProcess:
        await asyncio.sleep(self.random.choice([0.0, 0.0, 0.01]))
        if self.random.random() < self.trouble / 4:
            self.kernel.note("no process for engine", f"{config.replica}.{epoch}")
            raise OSError("no memory for another process")
        process = SimProcess(self, config, endpoint, epoch, standby=standby)
        if not standby:
            self.take_turn(process)
        self.processes.append(process)
        return process

    def take_turn(self, process: SimProcess) -> None:
        """It is the one that serves, or is about to."""
        for other in self.alive:
            if other.replica == process.replica and other is not process and not other.stands_by:
                self.kernel.fail(f"{process} is started while {other} is alive")

    def new_pid(self) -> int:
        return 1000 + len(self.processes)

    def trouble_in_start_up(self) -> str:
        if self.random.random() >= self.trouble:
            return ""
        return self.random.choice(["a crash", "a hang", "silence", "slowness"])

    @property
    def alive(self) -> list[SimProcess]:
        return [process for process in self.processes if process.alive]

    def ran(self, process: SimProcess) -> None:
        self.active.append(process)

    def died(self, process: SimProcess) -> None:
        self.deaths += 1
        executing = process.executing()
        self.found.update(list(executing or ()))
        self.unknown += executing is None

    def most_found(self, request_id: str) -> int:
        """Deaths that may have found a choice of a request of a client's, at most."""
        mine = (count for name, count in self.found.items() if name.partition(".")[0] == request_id)
        return max(mine, default=0) + self.unknown

    def parent_died(self) -> None:
        for process in self.alive:
            process.let_go()
