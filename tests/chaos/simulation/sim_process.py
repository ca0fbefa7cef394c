"""An engine process that starts, computes, is stopped, goes on and dies.

An engine runs the production ``EngineLoop`` over the production ``Engine`` in a greenlet, which gives up control
wherever the real one would wait or take time: at the socket, in a step, in its start-up. In between nothing else
happens, so a history is a sequence of such pieces in the order of their simulated times.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from greenlet import GreenletExit, getcurrent, greenlet
from sim_kernel import Event
from sim_model import FakeExecutor
from sim_network import EngineLine

from engine import flight_record
from engine.batch import ScheduledBatch
from engine.channel import HEARTBEAT_INTERVAL
from engine.companion import Companion
from engine.config import EngineConfig
from engine.engine import Engine, warm_up
from engine.errors import EngineError, RankError
from engine.flight_record import FlightRecord
from engine.lease import Lease
from engine.messages import (
    Alive,
    EngineInfo,
    Failed,
    FromEngine,
    Heartbeat,
    Loading,
    Ready,
    Serve,
    Standing,
    StepOutput,
    ToEngine,
    decode_to_engine,
    encode,
)
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
        self._table, self._config, self._endpoint, self.epoch = table, config, endpoint, epoch
        self.replica = config.replica
        self.stands_by = standby
        """Whether its turn has not come."""
        self.pid = table.new_pid()
        self._kernel = table.kernel
        self.draw = table.random
        self._line = EngineLine(table.network, self._arrive)
        self._inbox: deque[bytes] = deque()
        self._greenlet = greenlet(self._main)
        self._alarm: Event | None = None
        self._listening = False
        self._due_on_continue = False
        self._lease = Lease(config.engine_lease, HEARTBEAT_INTERVAL)
        self._record = flight_record.create()
        self._executing: dict[str, int] | None = None
        self._exited: asyncio.Future[int] = table.loop.create_future()
        self._beside = Beside(self)
        self._steps_to_exception = -1
        self._sends_to_kill = -1
        self._outputs_to_lose = 0
        self._hangs = False
        self.alive, self.stopped, self.ending = True, False, False
        self.fault = ""
        """The first thing that was done to it; an engine without one must not be killed."""
        self.skew = 0.0
        self.slowness = table.shape.slowness
        self.engine: Engine | None = None
        self.executor: FakeExecutor | None = None
        self.lost_outputs = 0
        self._kernel.after(0.0, self._resume)
        self._kernel.after(self.draw.uniform(0, HEARTBEAT_INTERVAL), self._beat)

    def __str__(self) -> str:
        return f"engine {self.replica}.{self.epoch}"

    @property
    def is_sick(self) -> bool:
        """Whether its supervisor has to kill it."""
        busy = self.engine is not None and self.engine.is_busy
        return self.stopped or self._line.blocked or (self._hangs and busy)

    # --- what its parent does ----------------------------------------------------------------------------------

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    def executing(self) -> dict[str, int] | None:
        return self._executing

    def dump(self) -> None:
        pass

    def close_input(self) -> None:
        if not self._table.loop.dead:
            self.let_go()

    def let_go(self) -> None:
        """Its lifeline ends."""
        self.ending = True
        self._kernel.after(_PARTING + self.draw.uniform(0, 0.3), self._end_without_parent)

    def kill(self) -> None:
        if self._table.loop.dead or not self.alive:
            return
        if not self.fault and not self.ending and not self._table.stopping:
            self._table.unjust.append(str(self))
        self._kernel.after(self.draw.choice([0.0, 0.001, 0.2]), lambda: self._die(-9))

    # --- what faults do ----------------------------------------------------------------------------------------

    def suffer(self, fault: str) -> None:
        self.fault = self.fault or fault
        self._kernel.note(str(self), "suffers", fault)

    def kill9(self) -> None:
        self.suffer("kill -9")
        self._die(-9)

    def kill9_at_send(self, sends: int) -> None:
        self.suffer(f"kill -9 at message {sends}")
        self._sends_to_kill = sends

    def stop(self) -> None:
        self.suffer("SIGSTOP")
        self.stopped = True
        self._line.block(True)

    def go_on(self) -> None:
        if self.stopped and self.alive:
            self._kernel.note(str(self), "goes on")
            self.stopped = False
            self._line.block(False)
            if self._due_on_continue:
                self._due_on_continue = False
                self._kernel.after(0.0, self._resume)

    def fall_silent(self) -> None:
        self.suffer("silence")
        self._line.block(True)

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
        self._kernel.after(0.0, lambda: self._die(-9 if how == "no memory" else -11))
        self._wait()

    def lose_outputs(self, count: int) -> None:
        """A fault of the engine's: so many messages of tokens, not the last of their choices, are never sent."""
        self.suffer(f"the loss of {count} outputs")
        self._outputs_to_lose = count

    def say_garbage(self) -> None:
        self.suffer("garbage")
        self._line.send(b"\xc1 this is no message")

    # --- the process -------------------------------------------------------------------------------------------

    def clock(self) -> float:
        return self._kernel.now + self.skew

    def _main(self) -> None:
        self._table.network.connect(self._endpoint, self._line)
        try:
            info = self._start_up()
            assert self.engine is not None
            self.send(Ready(info=info))
            outbox = Outbox(self._config.stream_interval, self.clock)
            EngineLoop(self.engine, self, outbox, companion=lambda _: self._beside).run()
            status = 0
        except EngineError as error:
            self.send(Failed(message=str(error), expected=True))
            status = 1
        except RankError as error:
            self.send(Failed(message=str(error), expected=False))
            status = 70
        except Exception as error:
            if not self.fault:
                self._table.broken.append((self, error))
            self.send(Failed(message=f"{type(error).__name__}: {error}", expected=False))
            status = 70
        self._line.flush_and(lambda: self._die(status))
        self._kernel.after(_FAREWELL, lambda: self._die(status))

    def _start_up(self) -> EngineInfo:
        shape = self._table.shape
        trouble = self._table.trouble_in_start_up()
        if trouble:
            self.suffer(f"{trouble} in its start-up")
        for stage in ("imports", "weights", "cache"):
            self.send(Loading(stage=stage, done=0, total=0, unit=""))
            self._pause(self.draw.uniform(0.05, 0.5) * (20 if trouble == "slowness" else 1))
            if trouble == "a crash":
                raise RuntimeError("the start-up has failed")
            if trouble == "a hang":
                self._pause(1e9)
            if trouble == "silence":
                self._line.block(True)
            if stage == "weights" and self.stands_by:
                self._stand_by()
        numerics = shape.numerics[self.replica]
        self.executor = FakeExecutor(
            shape.num_blocks, shape.block_size, numerics, shape.depth, self._work, self._is_late
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
        self.send(Standing())
        while not any(isinstance(message, Serve) for message in self.receive(wait=True)):
            pass
        self.stands_by = False
        self._table.take_turn(self)

    def _work(self, batch: ScheduledBatch) -> None:
        """A step's computation: time, and what may happen in it."""
        seconds = (0.001 + 0.0002 * len(batch.input_ids)) * self.slowness * self.draw.uniform(0.5, 1.5)
        self._pause(seconds / 2)
        if self.draw.random() < 0.7:
            self._beside.do()
        self._pause(seconds / 2)
        self._table.compute(self, batch)
        while self._hangs:
            self._pause(3600.0)
        if self._steps_to_exception >= 0:
            self._steps_to_exception -= 1
            if self._steps_to_exception < 0:
                raise RuntimeError("a kernel has failed")

    def _is_late(self) -> bool:
        """Whether a token has to be sampled in a later step, as where a grammar is being compiled."""
        return self._table.shape.lateness > 0 and self.draw.random() < self._table.shape.lateness

    def _beat(self) -> None:
        if not self.alive:
            return
        if not self.stopped:
            if self._lease.passed(HEARTBEAT_INTERVAL):
                self._kernel.note(self, "has heard nothing of its gateway")
                self.ending = True
                self._die(69)
                return
            engine = self.engine
            beat = Heartbeat(step=0, pending=0)
            if engine is not None:
                beat = Heartbeat(step=engine.steps, pending=engine.num_pending, limit=engine.step_limit)
            self._line.send(encode(beat))
        self._kernel.after(HEARTBEAT_INTERVAL, self._beat)

    # --- the transport that its loop is given ------------------------------------------------------------------

    def send(self, message: FromEngine) -> None:
        if not self.alive:
            return
        if self._sends_to_kill >= 0:
            self._sends_to_kill -= 1
            if self._sends_to_kill < 0:
                self._kernel.after(0.0, lambda: self._die(-9))
                self._wait()
        if isinstance(message, StepOutput):
            self._table.check_output(self, message)
            if self._outputs_to_lose:
                message = self._without_one(message)
        self._line.send(encode(message))

    def receive(self, *, wait: bool) -> list[ToEngine]:
        if wait and not self._inbox:
            self._listening = True
            self._pause(HEARTBEAT_INTERVAL)
            self._listening = False
        messages = map(decode_to_engine, self._inbox)
        said = [message for message in messages if not isinstance(message, Alive)]
        self._inbox.clear()
        return said

    def _without_one(self, message: StepOutput) -> StepOutput:
        for number, output in enumerate(message.outputs):
            if output.finish is None and output.ids:
                self._outputs_to_lose -= 1
                self.lost_outputs += 1
                self._table.lost_outputs[output.id] += 1
                rest = message.outputs[:number] + message.outputs[number + 1 :]
                self._kernel.note(str(self), "loses tokens of", output.id, "at", output.at)
                return StepOutput(started=message.started, outputs=rest, stats=message.stats)
        return message

    # --- its place in simulated time ---------------------------------------------------------------------------

    def _arrive(self, frame: bytes) -> None:
        self._lease.heard()
        self._inbox.append(frame)
        if self._listening:
            self._listening = False
            if self._alarm is not None:
                self._alarm.cancel()
            self._kernel.after(0.0, self._resume)

    def _pause(self, seconds: float) -> None:
        self._alarm = self._kernel.after(seconds, self._resume)
        self._wait()

    def _wait(self) -> None:
        getcurrent().parent.switch()

    def _resume(self) -> None:
        if not self.alive:
            return
        if self.stopped:
            self._due_on_continue = True
            return
        if self._greenlet.dead:
            return
        self._table.ran(self)
        self._greenlet.switch()

    def _end_without_parent(self) -> None:
        if self.stopped:
            self._kernel.after(1.0, self._end_without_parent)
        else:
            self._die(69)

    def _die(self, status: int) -> None:
        if not self.alive:
            return
        self.alive = False
        lost = self._line.lose()
        self._kernel.note(str(self), "ends with status", status, "and takes", lost, "messages with it")
        self._executing = flight_record.read(self._record)
        os.close(self._record)
        self._table.died(self)
        if not self._greenlet.dead and getcurrent() is not self._greenlet:
            with suppress(GreenletExit):
                self._greenlet.throw(GreenletExit)
        self._kernel.after(self.draw.choice([0.0, 0.01]), self._reap_with(status))

    def _reap_with(self, status: int) -> Callable[[], None]:
        def reap() -> None:
            if not self._table.loop.dead and not self._exited.done():
                self._table.loop.call_soon(lambda: self._exited.done() or self._exited.set_result(status))

        return reap
