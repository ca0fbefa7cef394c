"""An engine process that starts, computes, is stopped, goes on and dies.

It runs the production ``EngineLoop`` over the production ``Engine`` in a ``SimThread``, which pauses wherever the real
one would wait or take time: at the socket, in a step, in its start-up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from sim_model import FakeExecutor
from sim_thread import SimThread
from sim_transport import SimTransport

from engine import flight_record
from engine.batch import ScheduledBatch
from engine.channel import HEARTBEAT_INTERVAL
from engine.companion import Companion
from engine.config import EngineConfig
from engine.engine import Engine, warm_up
from engine.errors import EngineError, RankError
from engine.flight_record import FlightRecord
from engine.lease import Lease
from engine.messages import EngineInfo, Failed, Heartbeat, Loading, Ready, Serve, Standing, encode
from engine.outbox import Outbox
from engine.patience import Patience
from engine.process import EngineLoop
from gateway.replicas.launchers import EngineProcess

if TYPE_CHECKING:
    from sim_process_table import ProcessTable

_PARTING = 0.2
_FAREWELL = 2.0
"""Seconds, as in ``engine/process.py`` and ``engine/channel.py``."""


class Beside(Companion):
    """Does what it is told before, in or after the step beside which it is done."""

    def __init__(self, process: SimProcess) -> None:
        self._process = process
        self._work: Callable[[], None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        self._work = work
        if self._process.draw.random() < 0.3:
            self.do()

    def do(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work()

    def join(self) -> None:
        self.do()

    def close(self) -> None:
        pass


class SimProcess(EngineProcess):
    def __init__(self, table: ProcessTable, config: EngineConfig, endpoint: str, epoch: int, *, standby: bool) -> None:
        self.table, self.kernel = table, table.kernel
        self._config, self._endpoint, self.epoch = config, endpoint, epoch
        self.replica = config.replica
        self.stands_by = standby
        """Whether its turn has not come."""
        self.pid = table.new_pid()
        self.draw = table.random
        self.thread = SimThread(self.kernel, self._main, lambda: table.ran(self))
        self.transport = SimTransport(self)
        self._lease = Lease(config.engine_lease, HEARTBEAT_INTERVAL)
        self._record = flight_record.create()
        self._executing: dict[str, tuple[int, ...]] | None = None
        self._exited: asyncio.Future[int] = table.loop.create_future()
        self._beside = Beside(self)
        self._steps_to_exception = -1
        self._hangs = False
        self.alive, self.ending = True, False
        self.fault = ""
        """The first thing that was done to it; an engine without one must not be killed."""
        self.skew = 0.0
        self.slowness = table.shape.slowness
        self.engine: Engine | None = None
        self.executor: FakeExecutor | None = None
        self.thread.start()
        self.kernel.after(self.draw.uniform(0, HEARTBEAT_INTERVAL), self._beat)

    def __str__(self) -> str:
        return f"engine {self.replica}.{self.epoch}"

    @property
    def is_sick(self) -> bool:
        """Whether its supervisor has to kill it."""
        busy = self.engine is not None and self.engine.is_busy
        return self.thread.stopped or self.transport.line.blocked or (self._hangs and busy)

    # --- what its parent does ----------------------------------------------------------------------------------

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    def executing(self) -> dict[str, tuple[int, ...]] | None:
        return self._executing

    def dump(self) -> None:
        pass

    def close_input(self) -> None:
        if not self.table.loop.dead:
            self.let_go()

    def let_go(self) -> None:
        """Its lifeline ends."""
        self.ending = True
        self.kernel.after(_PARTING + self.draw.uniform(0, 0.3), self._end_without_parent)

    def kill(self) -> None:
        if self.table.loop.dead or not self.alive:
            return
        if not self.fault and not self.ending and not self.table.stopping:
            self.table.unjust.append(str(self))
        self.kernel.after(self.draw.choice([0.0, 0.001, 0.2]), lambda: self.die(-9))

    # --- what faults do ----------------------------------------------------------------------------------------

    def suffer(self, fault: str) -> None:
        self.fault = self.fault or fault
        self.kernel.note(str(self), "suffers", fault)

    def kill9(self) -> None:
        self.suffer("kill -9")
        self.die(-9)

    def kill9_at_send(self, sends: int) -> None:
        self.suffer(f"kill -9 at message {sends}")
        self.transport.sends_to_kill = sends

    def stop(self) -> None:
        self.suffer("SIGSTOP")
        self.thread.stopped = True
        self.transport.line.block(True)

    def go_on(self) -> None:
        if self.thread.stopped and self.alive:
            self.kernel.note(str(self), "goes on")
            self.transport.line.block(False)
            self.thread.resume()

    def heal(self) -> None:
        """What was done to it, and has not shown yet, never does."""
        self.go_on()
        self._steps_to_exception = self.transport.sends_to_kill = -1
        self.transport.outputs_to_lose = 0

    def fall_silent(self) -> None:
        self.suffer("silence")
        self.transport.line.block(True)

    def hang(self) -> None:
        self.suffer("a step that hangs")
        self._hangs = True

    def raise_in_step(self, steps: int) -> None:
        self.suffer(f"an exception after {steps} steps")
        self._steps_to_exception = steps

    def crash(self, how: str) -> None:
        """In the middle of a step."""
        self.suffer("a crash")
        if how == "exception":
            raise RuntimeError("a kernel has failed")
        self.die_here(-9 if how == "no memory" else -11)

    def lose_outputs(self, count: int) -> None:
        """A fault of the engine's: so many messages of tokens, not the last of their choices, are never sent."""
        self.suffer(f"the loss of {count} outputs")
        self.transport.outputs_to_lose = count

    def say_garbage(self) -> None:
        self.suffer("garbage")
        self.transport.line.send(b"\xc1 this is no message")

    # --- the process -------------------------------------------------------------------------------------------

    def hear(self) -> None:
        """Something of its gateway."""
        self._lease.heard()

    def clock(self) -> float:
        return self.kernel.now + self.skew

    def _main(self) -> None:
        self.table.network.connect(self._endpoint, self.transport.line)
        try:
            info = self._start_up()
            assert self.engine is not None
            self.transport.send(Ready(info=info))
            outbox = Outbox(self._config.stream_interval, self.clock)
            EngineLoop(self.engine, self.transport, outbox, companion=lambda _: self._beside).run()
            status = 0
        except EngineError as error:
            self.transport.send(Failed(message=str(error), expected=True))
            status = 1
        except RankError as error:
            self.transport.send(Failed(message=str(error), expected=False))
            status = 70
        except Exception as error:
            if not self.fault:
                self.table.broken.append((self, error))
            self.transport.send(Failed(message=f"{type(error).__name__}: {error}", expected=False))
            status = 70
        self.transport.line.flush_and(lambda: self.die(status))
        self.kernel.after(_FAREWELL, lambda: self.die(status))

    def _start_up(self) -> EngineInfo:
        shape = self.table.shape
        trouble = self.table.trouble_in_start_up()
        if trouble:
            self.suffer(f"{trouble} in its start-up")
        for stage in ("imports", "weights", "cache"):
            self.transport.send(Loading(stage=stage, done=0, total=0, unit=""))
            self.thread.pause(self.draw.uniform(0.05, 0.5) * (20 if trouble == "slowness" else 1))
            if trouble == "a crash":
                raise RuntimeError("the start-up has failed")
            if trouble == "a hang":
                self.thread.pause(1e9)
            if trouble == "silence":
                self.transport.line.block(True)
            if stage == "weights" and self.stands_by:
                self._stand_by()
        numerics = shape.numerics[self.replica]
        self.executor = FakeExecutor(
            shape.num_blocks, shape.block_size, numerics, shape.depth, self._work, self._is_late, overlap=shape.overlap
        )
        facts = self.executor.load()
        num_blocks, patience = self.executor.initialize_cache(), Patience(self.clock)
        warm_up(self._config, self.executor, facts, num_blocks, patience)
        self.engine = Engine(
            self._config,
            self.executor,
            facts,
            num_blocks,
            clock=self.clock,
            patience=patience,
            record=FlightRecord(os.dup(self._record)),
        )
        return EngineInfo(
            device=facts.device,
            dtype=facts.dtype,
            parameters=facts.parameters,
            weight_bytes=facts.weight_bytes,
            max_model_len=self.engine.max_model_len,
            block_size=shape.block_size,
            num_blocks=shape.num_blocks,
            cache_bytes=shape.num_blocks * facts.block_bytes,
            vocab_size=facts.vocab_size,
            eos_token_ids=facts.eos_token_ids,
            fingerprint=facts.fingerprint,
            kernels={},
            load_seconds={},
        )

    def _stand_by(self) -> None:
        self.transport.send(Standing())
        while not any(isinstance(message, Serve) for message in self.transport.receive(wait=True)):
            pass
        self.stands_by = False
        self.table.take_turn(self)

    def _work(self, batch: ScheduledBatch) -> None:
        """A step's computation: time, and what may happen in it."""
        seconds = (0.001 + 0.0002 * len(batch.input_ids)) * self.slowness * self.draw.uniform(0.5, 1.5)
        self.thread.pause(seconds / 2)
        if self.draw.random() < 0.7:
            self._beside.do()
        self.thread.pause(seconds / 2)
        self.table.compute(self, batch)
        while self._hangs:
            self.thread.pause(3600.0)
        if self._steps_to_exception >= 0:
            self._steps_to_exception -= 1
            if self._steps_to_exception < 0:
                raise RuntimeError("a kernel has failed")

    def _is_late(self) -> bool:
        """Whether a token has to be sampled in a later step, as where a grammar is being compiled."""
        return self.table.shape.lateness > 0 and self.draw.random() < self.table.shape.lateness

    def _beat(self) -> None:
        if not self.alive:
            return
        if not self.thread.stopped:
            if self._lease.passed(HEARTBEAT_INTERVAL):
                self.kernel.note(self, "has heard nothing of its gateway")
                self.ending = True
                self.die(69)
                return
            engine = self.engine
            beat = Heartbeat(step=0, pending=0)
            if engine is not None:
                beat = Heartbeat(step=engine.steps, pending=engine.num_pending, limit=engine.step_limit)
            self.transport.line.send(encode(beat))
        self.kernel.after(HEARTBEAT_INTERVAL, self._beat)

    # --- its end -----------------------------------------------------------------------------------------------

    def die_here(self, status: int) -> None:
        """Called by its own thread, which never comes back."""
        self.kernel.after(0.0, lambda: self.die(status))
        self.thread.wait()

    def _end_without_parent(self) -> None:
        if self.thread.stopped:
            self.kernel.after(1.0, self._end_without_parent)
        else:
            self.die(69)

    def die(self, status: int) -> None:
        if not self.alive:
            return
        self.alive = False
        lost = self.transport.line.lose()
        self.kernel.note(str(self), "ends with status", status, "and takes", lost, "messages with it")
        self._executing = flight_record.read(self._record)
        os.close(self._record)
        self.table.died(self)
        self.thread.end()
        self.kernel.after(self.draw.choice([0.0, 0.01]), self._reap_with(status))

    def _reap_with(self, status: int) -> Callable[[], None]:
        def reap() -> None:
            if not self.table.loop.dead and not self._exited.done():
                self.table.loop.call_soon(lambda: self._exited.done() or self._exited.set_result(status))

        return reap
