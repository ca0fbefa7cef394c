"""The engine process: ``python -m engine.process``.

Its parent writes a ``Launch`` as one line of JSON to its standard input, when it has one, and keeps that open: end
of file there means that the parent is gone, and the process ends at once. Everything else goes over one ZeroMQ
PAIR socket, which the parent binds and which is of this incarnation alone. SIGUSR1 prints the stack of every thread.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec

from engine.channel import HEARTBEAT_INTERVAL, Channel, Transport
from engine.companion import Companion
from engine.config import EngineConfig
from engine.engine import Engine, warm_up
from engine.errors import EngineError, RankError
from engine.executor import find_executor
from engine.executor.base import Executor, ModelFacts
from engine.flight_record import FlightRecord
from engine.launch import Launch
from engine.lease import Lease
from engine.linux import set_process_name
from engine.messages import (
    Abort,
    Drain,
    EngineInfo,
    Failed,
    Heartbeat,
    Idle,
    Loading,
    Look,
    Ready,
    ResetCache,
    Serve,
    Standing,
    Start,
    StepOutput,
    ToEngine,
)
from engine.outbox import Outbox
from engine.patience import Patience
from observability.logging import configure_logging, log_context

logger = logging.getLogger(__name__)

_STDIN = 0
_LOOK = HEARTBEAT_INTERVAL / 2
"""Seconds between two looks at the lifeline and the lease."""
_PARTING = 0.2
"""Seconds that an idle engine has to end in order once its lifeline is gone."""


class EngineLoop:
    """Messages in, steps, frames out.

    While this thread computes a step, another one sends what is due of the steps before, prepares the step after
    and takes in messages. The model keeps the thread it was loaded in, and a step begins without a change of
    threads, which would cost it more than all of that.
    """

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        outbox: Outbox,
        *,
        companion: Callable[[str], Companion] = Companion,
    ) -> None:
        """``companion`` makes, of a name, what does things beside a step."""
        self._engine = engine
        self._transport = transport
        self._outbox = outbox
        self._companion = companion
        self._draining = False
        self._unsent: StepOutput | None = None

    def run(self) -> None:
        """Serve until drained. Idle time is used; once there has been some, the block pool is checked."""
        checked = rested = False
        with self._companion("bookkeeping") as companion:
            while self._engine.is_busy or not self._draining:
                idle = not self._engine.is_busy
                messages = self._take_in(wait=idle and rested)
                if self._engine.is_busy:
                    self._step(companion)
                    checked = rested = False
                elif not idle:
                    self._send_output(everything=True)
                    self._transport.send(Idle(state=self._engine.state))
                elif messages:
                    continue
                elif not rested:
                    rested = not self._engine.use_idle_time()
                else:
                    self._engine.check_executor()
                    if not checked:
                        self._engine.check_integrity()
                        checked = True

    def _step(self, companion: Companion) -> None:
        self._engine.begin()
        companion.start(self._keep_books)
        try:
            self._engine.compute()
        finally:
            companion.join()
        self._unsent = self._engine.finish()
        if not self._engine.is_busy:
            self._send_output(everything=True)

    def _keep_books(self) -> None:
        self._send_output(everything=False)
        self._engine.prepare()
        self._take_in(wait=False)

    def _take_in(self, *, wait: bool) -> int:
        """Handle the messages that are there; gives their number."""
        messages = self._transport.receive(wait=wait)
        for message in messages:
            self._handle(message)
        return len(messages)

    def _send_output(self, *, everything: bool) -> None:
        """Send what is due, or everything: where no step follows that could bring more."""
        if self._unsent is not None:
            self._outbox.add(self._unsent)
            self._unsent = None
        frame = self._outbox.flush() if everything else self._outbox.due()
        if frame is not None:
            self._send_cache_events()
            self._transport.send(frame)

    def _send_cache_events(self) -> None:
        events = self._engine.cache_events()
        if events is not None:
            self._transport.send(events)

    def _handle(self, message: ToEngine) -> None:
        match message:
            case Start():
                self._outbox.hurried = message.at_once
                rejected = self._engine.start(message)
                if rejected is not None:
                    self._transport.send(rejected)
            case Abort():
                self._engine.abort(message)
            case ResetCache():
                self._engine.reset_cache()
                self._send_cache_events()
            case Look():
                self._transport.send(self._engine.picture(message.cells))
            case Drain():
                self._draining = True


class Startup:
    """From a configuration to an engine, telling the gateway how far it has come and how long it took."""

    def __init__(
        self,
        config: EngineConfig,
        channel: Channel,
        imports: threading.Thread,
        *,
        record: FlightRecord | None = None,
        standby: bool = False,
    ) -> None:
        """``standby``: wait for ``Serve`` once the weights are loaded."""
        self._config = config
        self._standby = standby
        self._record = record
        self._channel = channel
        self._imports = imports
        self._seconds: dict[str, float] = {}

    def run(self) -> tuple[Engine, Executor, EngineInfo]:
        config = self._config
        with self._stage("imports"):
            self._imports.join()
            executor_class = find_executor(config.executor, config.ranks)
        executor = executor_class(config, self._progress)
        with self._stage("weights"):
            facts = executor.load()
        if self._standby:
            self._stand_by(executor)
        with self._stage("cache"):
            num_blocks = executor.initialize_cache()
            patience = Patience()
            engine = Engine(config, executor, facts, num_blocks, patience=patience, record=self._record)
        with self._stage("warm-up"):
            warm_up(config, executor, facts, num_blocks, patience)
        return engine, executor, self._info(engine, facts, num_blocks)

    def _stand_by(self, executor: Executor) -> None:
        self._channel.send(Standing())
        while not any(isinstance(message, Serve) for message in self._channel.receive(wait=True)):
            executor.check()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._progress(name, 0, 0, "")
        began = time.monotonic()
        yield
        self._seconds[name] = time.monotonic() - began

    def _progress(self, stage: str, done: int, total: int, unit: str) -> None:
        self._channel.send(Loading(stage=stage, done=done, total=total, unit=unit))

    def _info(self, engine: Engine, facts: ModelFacts, num_blocks: int) -> EngineInfo:
        return EngineInfo(
            ranks=self._config.ranks,
            device=facts.device,
            dtype=facts.dtype,
            quantization=self._config.quantization,
            parameters=facts.parameters,
            weight_bytes=facts.weight_bytes,
            max_model_len=engine.max_model_len,
            block_size=self._config.block_size,
            num_blocks=num_blocks,
            cache_bytes=num_blocks * facts.block_bytes,
            kv_cache_dtype=self._config.kv_cache_dtype,
            vocab_size=facts.vocab_size,
            eos_token_ids=facts.eos_token_ids,
            fingerprint=facts.fingerprint,
            kernels=facts.kernels,
            kernel_builds=facts.kernel_builds,
            load_seconds=self._seconds,
        )


class EngineProcess:
    """One incarnation of an engine, from its configuration to its exit status."""

    def __init__(self, endpoint: str, lease: float, record: FlightRecord | None = None) -> None:
        """``lease``: seconds, see ``Lease``."""
        self._engine: Engine | None = None
        self._record = record
        self._lease = Lease(lease, _LOOK)
        self._channel = Channel(endpoint, self._counters, self._lease.heard)

    def run(self, config: EngineConfig, imports: threading.Thread, *, standby: bool = False) -> int:
        """``imports`` is a thread that imports ahead; ``standby`` as in ``Launch``.

        Exit status: 0 drained, 1 a mistake of the model or the settings, 70 a fault of ours.
        """
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()
        try:
            startup = Startup(config, self._channel, imports, record=self._record, standby=standby)
            self._engine, executor, info = startup.run()
            # What was imported and loaded stays: looking through it again and again would hold up steps.
            gc.freeze()
            gc.enable()
            self._channel.send(Ready(info=info))
            EngineLoop(self._engine, self._channel, Outbox(config.stream_interval, time.monotonic)).run()
            executor.shutdown()
            status = os.EX_OK
        except EngineError as error:
            self._channel.send(Failed(message=str(error), expected=True))
            status = 1
        except RankError as error:
            logger.error("%s: the engine ends", error)
            self._channel.send(Failed(message=str(error), expected=False))
            status = os.EX_SOFTWARE
        except Exception as error:
            logger.exception("the engine cannot go on")
            self._channel.send(Failed(message=f"{type(error).__name__}: {error}", expected=False))
            status = os.EX_SOFTWARE
        self._channel.close()
        return status

    def _counters(self) -> Heartbeat:
        engine = self._engine
        if engine is None:
            return Heartbeat(step=0, pending=0)
        return Heartbeat(step=engine.steps, pending=engine.num_pending, limit=engine.step_limit)

    def _watch(self) -> None:
        """Beat while the main thread is away, and end the process, in mid-step if need be, with its parent."""
        before = time.monotonic()  # stands still while the machine is suspended
        while True:
            readable, _, _ = select.select([_STDIN], [], [], _LOOK)
            if readable and not os.read(_STDIN, 4096):
                # A gateway that stops us says Drain and lets go at the same moment.
                time.sleep(_PARTING)
                logger.warning("the gateway is gone: ending")
                os._exit(os.EX_UNAVAILABLE)
            self._channel.beat()
            now = time.monotonic()
            if self._lease.passed(now - before):
                logger.warning("no sign of life from the gateway for %g s: ending", self._lease.seconds)
                os._exit(os.EX_UNAVAILABLE)
            before = now


def _import(names: Sequence[str]) -> None:
    # Whoever needs the module imports it again, and tells of the error.
    with suppress(Exception):
        for name in names:
            importlib.import_module(name)


def main(ahead: Sequence[str] = ("torch",)) -> int:
    """``ahead`` names modules that are imported while the process waits to be told what to serve."""
    # A terminal's Ctrl-C reaches every process in the foreground; what it means is the gateway's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # So is a service manager's SIGTERM to all of a service's processes: the gateway drains, and then lets go of us.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    gc.disable()
    imports = threading.Thread(target=_import, args=(ahead,), name="imports", daemon=True)
    imports.start()
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(os.EX_UNAVAILABLE)  # an import cannot be called off
    launch = msgspec.json.decode(line, type=Launch)
    name = f"{launch.config.replica}.{launch.epoch}"
    set_process_name(f"penstock-e{name}")
    configure_logging(launch.config.log_level, launch.config.log_format)
    record = FlightRecord(launch.record) if launch.record is not None else None
    with log_context(engine=name):
        process = EngineProcess(launch.endpoint, launch.config.engine_lease, record)
        return process.run(launch.config, imports, standby=launch.standby)


if __name__ == "__main__":
    sys.exit(main())
