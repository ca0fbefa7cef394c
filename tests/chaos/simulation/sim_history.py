"""One history: a server comes up, clients call, things go wrong, then nothing goes wrong any more, and all must end."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from sim_client import Client
from sim_gateway import SimGateway
from sim_invariants import Watch, look_when_quiet
from sim_kernel import Kernel, Violation
from sim_network import Network
from sim_process import SimProcess
from sim_world import Fault, draw_calls, draw_faults, draw_shape

from engine.batch import ScheduledBatch
from gateway.completion.lifecycle import GAPS
from gateway.completion.suspects import CONVICTION
from gateway.errors import APIError, EngineCrash, InternalError, Unavailable

LONGEST_START = 200.0
LONGEST_RECOVERY = 200.0
"""Simulated seconds in which everything has ended once nothing goes wrong any more."""


@dataclass
class Outcome:
    happened: Counter[str]
    """How often what."""
    simulated_seconds: float
    digest: str
    """Equal for equal histories."""


class FailedHistoryError(AssertionError):
    """An invariant broke; says which one, and how to see it again."""


def run(seed: int) -> Outcome:
    """Raises ``FailedHistoryError``."""
    history = History(seed)
    try:
        return history.run()
    except Exception as error:
        trace = "\n".join(history.kernel.trace()[-120:])
        raise FailedHistoryError(
            f"{trace}\n\n{type(error).__name__}: {error}\n\n"
            f"SEED={seed}\nTo see it again: python tests/chaos/simulation/simulate.py --seed {seed}"
        ) from error
    finally:
        history.close()


class History:
    def __init__(self, seed: int) -> None:
        self.kernel = Kernel(seed)
        rng = self.kernel.random
        self.shape = draw_shape(rng)
        self.length = rng.choice([0.3, 1.0, 4.0])
        self.gateway = SimGateway(self.kernel, Network(self.kernel), self.shape)
        calls = draw_calls(rng, self.shape, self.length)
        self.clients = [Client(self.kernel, call, self.shape.numerics, self._judge) for call in calls]
        self._poisons = {call.request.id: call.poison for call in calls if call.poison is not None}
        self.gateway.table.compute = self._compute
        self.faults = draw_faults(rng, self.length)
        self.drains_at = rng.uniform(0, self.length) if rng.random() < 0.2 else None
        self.gateway.table.trouble = rng.choice([0.0, 0.0, 0.0, 0.3, 0.9]) if self.faults else 0.0
        self._rng: random.Random = self.kernel.stream("faults")
        self._watch = Watch(self.gateway)
        self._up_at = 0.0
        self._wronged = 0
        self.kernel.after_event = self._watch.look

    def run(self) -> Outcome:
        kernel, gateway = self.kernel, self.gateway
        gateway.start()
        kernel.run(lambda: gateway.has_been_up, LONGEST_START, "the server comes up")
        self._up_at = kernel.now
        kernel.note("the server is up:", self.shape)
        for client in self.clients:
            kernel.after(client.call.at, lambda client=client: gateway.call(client))
        for fault in self.faults:
            kernel.after(fault.at, lambda fault=fault: self._strike(fault))
        kernel.after(self.length, self._heal)
        if self.drains_at is not None:
            kernel.after(self.drains_at, lambda: gateway.shut_down(self._rng.choice([0.1, 2.0])))
        kernel.run(
            lambda: all(client.over for client in self.clients) and (self.drains_at is None or gateway.down),
            self.length + LONGEST_RECOVERY,
            "every request ends",
        )
        self._rest()
        return Outcome(self._count(), kernel.now, kernel.digest)

    def close(self) -> None:
        """Lets go of tasks, greenlets and folders; nothing of it is looked at."""
        self.kernel.dissolve()
        loop = self.gateway.loop
        loop.dissolve()
        with suppress(Violation):
            self.kernel.run(lambda: loop.dissolved, 60.0, "every task ends")
        for process in self.gateway.table.alive:
            process._die(-9)
        loop.kill()

    def _rest(self) -> None:
        """Everything that was said arrives, every process that is to be replaced is; then the server is stopped."""
        gateway, kernel = self.gateway, self.kernel
        if not gateway.down:
            self._heal()
            kernel.sleep(max(0.0, self._up_at + self.length - kernel.now) + 1.0)
            kernel.run(lambda: self._settled, 60.0, "the engines are up again")
            kernel.sleep(1.0)
            if self._settled:
                look_when_quiet(gateway)
            gateway.shut_down(1.0)
            kernel.run(lambda: gateway.down, 60.0, "the server stops")
        if gateway.table.alive:
            raise Violation(f"{gateway.table.alive[0]} is alive after the end")
        look_when_quiet(gateway)

    def _count(self) -> Counter[str]:
        """What a run of many histories must have seen some of, or it would prove nothing."""
        gateway = self.gateway
        happened = Counter(f"fault: {fault.kind}" for fault in self.faults)
        happened.update(f"request {client.state}" for client in self.clients)
        happened["request tried again"] = sum(client.tries for client in self.clients)
        happened["engine lost"] = gateway.table.deaths
        happened["engine given up"] = len(gateway.lifecycle._placement._given_up)
        happened["replay"] = gateway.replays
        happened["preemption"] = gateway.preemptions
        happened["prefix hit"] = gateway.prefix_hits
        happened["output lost"] = sum(process.lost_outputs for process in gateway.table.processes)
        happened["poison"] = len(self._poisons)
        happened["conviction"] = gateway.convictions
        happened["conviction of an innocent one, by three kills"] = self._wronged
        happened["drain"] = self.drains_at is not None
        return happened

    @property
    def _settled(self) -> bool:
        """No engine has to be replaced any more, and none is starting."""
        gateway = self.gateway
        placement = gateway.lifecycle._placement
        up = {(replica, each.epoch) for replica, each in placement._incarnations.items()}
        serving = [process for process in gateway.table.alive if not process.stands_by]
        alive = {(process.replica, process.epoch) for process in serving if not process.is_sick}
        return up == alive and len(up) + len(placement._given_up) == self.shape.replicas

    # --- what goes wrong ---------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.gateway.table.trouble = 0.0
        for process in self.gateway.table.alive:
            process.go_on()
            process._sends_to_kill = process._steps_to_exception = -1
            process._outputs_to_lose = 0

    def _strike(self, fault: Fault) -> None:
        gateway, rng = self.gateway, self._rng
        if gateway.draining and fault.kind in ("drain replica",):
            return
        self.kernel.note("fault:", fault.kind)
        if fault.kind == "clock jump":
            jump = rng.choice([1.0, 60.0, 86400.0])
            gateway.loop.jump(jump)
            for process in gateway.table.alive:
                process.skew += rng.choice([0.0, jump])
        elif fault.kind == "gateway pause":
            gateway.loop.pause(rng.choice([0.05, 1.0, 20.0]))
        elif fault.kind == "drain replica":
            gateway.soon(lambda: gateway.lifecycle.drain_replica(fault.number % self.shape.replicas))
        else:
            alive = [process for process in gateway.table.alive if not process.ending]
            if alive:
                self._strike_engine(rng.choice(alive), fault)

    def _compute(self, process: SimProcess, batch: ScheduledBatch) -> None:
        """A request that crashes whatever computes it."""
        for sample in batch.samples if self._poisons else ():
            name, _, rest = batch.sequence_ids[sample.row].partition(".")
            if rest.endswith(":0") and self._poisons.get(name) == sample.position:
                self.kernel.note(process, "computes poison:", name)
                process.crash(self._rng.choice(["exception", "signal"]))

    def _strike_engine(self, process: SimProcess, fault: Fault) -> None:
        match fault.kind:
            case "kill -9":
                process.kill9()
            case "kill -9 at a message":
                process.kill9_at_send(fault.number % 20)
            case "short stop":
                process.stop()
                self.kernel.after(self._rng.uniform(0.01, 2.0), process.go_on)
            case "long stop":
                process.stop()
            case "silence":
                process.fall_silent()
            case "hang":
                process.hang()
            case "exception":
                process.raise_in_step(fault.number % 20)
            case "lost output":
                process.lose_outputs(1 + fault.number % 2)
            case "slowness":
                process.slowness *= 10
            case "garbage":
                process.say_garbage()

    # --- what must hold ----------------------------------------------------------------------------------------

    def _judge(self, client: Client, error: APIError) -> None:
        if not self._may_fail(client, error):
            self.kernel.fail(f"{client} failed: {error.message}")

    def _may_fail(self, client: Client, error: APIError) -> bool:
        gateway = self.gateway
        if isinstance(error, Unavailable):
            if gateway.lifecycle.failure is not None or gateway.closed:
                return True
            return gateway.draining and not client.has_tokens
        processes = gateway.table.processes
        if isinstance(error, EngineCrash):
            if client.call.poison is not None:
                return True
            # From outside, three crashes of an innocent one at its one position look like guilt.
            self._wronged += 1
            return sum(bool(each.fault) for each in processes) > CONVICTION
        return isinstance(error, InternalError) and sum(process.lost_outputs for process in processes) > GAPS
