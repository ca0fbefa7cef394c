"""One history: a server comes up, clients call, things go wrong, then nothing goes wrong any more, and all must end."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial

from sim_client import Client
from sim_disk import Disk, SimJournal
from sim_gateway import SimGateway
from sim_invariants import Watch, look_when_quiet
from sim_kernel import Kernel, Violation
from sim_network import Network
from sim_poison import Poison
from sim_process import SimProcess
from sim_world import Fault, draw_calls, draw_faults, draw_shape, poison_more

from gateway.completion.suspects import CONVICTION
from gateway.completion.transitions import GAPS
from gateway.errors import APIError, EngineCrash, Gone, InternalError, NotFound, Unavailable

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
        self.shape = draw_shape(rng, overlap=self.kernel.stream("apart").random() < 0.4)
        self.length = rng.choice([0.3, 1.0, 4.0])
        self._network = Network(self.kernel)
        self._disk = Disk(self.kernel) if self.shape.durable else None
        calls = poison_more(self.kernel.stream("poison"), draw_calls(rng, self.shape, self.length))
        self.clients = [Client(self.kernel, call, self.shape.numerics, self._judge) for call in calls]
        self.faults = draw_faults(rng, self.length)
        self._drains_at = rng.uniform(0, self.length) if rng.random() < 0.2 else None
        self._was_to_drain = self._drains_at is not None
        self._follows = self._disk is not None
        """Whether another server comes after one that has drained."""
        self._trouble = rng.choice([0.0, 0.0, 0.0, 0.3, 0.9]) if self.faults else 0.0
        self._rng: random.Random = self.kernel.stream("faults")
        self._poison = Poison(self.kernel, self._rng, calls)
        self._up_at = 0.0
        self._wronged = 0
        self.gateways: list[SimGateway] = []
        self._bring_up()

    @property
    def gateway(self) -> SimGateway:
        """The newest."""
        return self.gateways[-1]

    def _bring_up(self) -> None:
        gateway = SimGateway(
            self.kernel,
            self._network,
            self.shape,
            number=len(self.gateways),
            disk=self._disk,
            call_again=self._call_later,
        )
        gateway.table.compute = partial(self._poison.compute, gateway)
        gateway.table.trouble = self._trouble
        self.gateways.append(gateway)
        self.kernel.after_event = Watch(gateway).look
        gateway.start()

    def run(self) -> Outcome:
        kernel = self.kernel
        kernel.run(lambda: self.gateway.has_been_up, LONGEST_START, "the server comes up")
        self._up_at = kernel.now
        kernel.note("the server is up:", self.shape)
        for client in self.clients:
            self._call_later(client, client.call.at)
        for fault in self.faults:
            kernel.after(fault.at, lambda fault=fault: self._strike(fault))
        kernel.after(self.length, self._heal)
        if self._drains_at is not None:
            kernel.after(self._drains_at, self._drain)
        kernel.run(
            lambda: all(client.over for client in self.clients) and self._drains_at is None,
            self.length + LONGEST_RECOVERY,
            "every request ends",
        )
        self._rest()
        return Outcome(self._count(), kernel.now, kernel.digest)

    def close(self) -> None:
        """Lets go of tasks, greenlets and folders; nothing of it is looked at."""
        for gateway in self.gateways:
            gateway.loop.dissolve()
            self.kernel.dissolve(lambda gateway=gateway: gateway.loop.dissolved, 60.0)
            for process in gateway.table.alive:
                process.die(-9)
            if gateway.durable is not None:
                gateway.durable.writer.dissolve()
            gateway.loop.kill()
        if self._disk is not None:
            self._disk.connection.close()

    def _rest(self) -> None:
        """Everything that was said arrives, every process that is to be replaced is; then the server is stopped."""
        kernel = self.kernel
        if not self.gateway.down:
            self._heal()
            kernel.sleep(max(0.0, self._up_at + self.length - kernel.now) + 1.0)
            gateway = self.gateway
            kernel.run(lambda: self._settled, 60.0, "the engines are up again, and no request is left")
            kernel.sleep(1.0)
            if self._settled:
                look_when_quiet(gateway)
                self._look_at_disk()
            gateway.shut_down(1.0)
            kernel.run(lambda: gateway.down, 60.0, "the server stops")
        self._heal()
        kernel.sleep(3.0)  # a stopped engine whose gateway was killed ends when it goes on
        for gateway in self.gateways:
            if gateway.table.alive:
                raise Violation(f"{gateway.table.alive[0]} is alive after the end")
        look_when_quiet(self.gateway)

    def _look_at_disk(self) -> None:
        journal = self.gateway.durable
        if self._disk is not None and journal is not None and journal.up and not journal._under_way:
            kept = sorted(self.gateway.streams._recordings)
            failed = {name for name, each in self.gateway.streams._recordings.items() if each.error is not None}
            if not set(kept) - failed <= set(self._disk.streams) <= set(kept):
                raise Violation(f"on the disk are {self._disk.streams}, and known are {kept}")

    def _look_at_what_is_left(self, journal: SimJournal) -> None:
        """Whatever a client has seen is on the disk."""
        left = {stored.head.request.id: stored for stored in journal.load()}
        for client in self.clients:
            if client.stream_id is None or client.over:
                continue
            stored = left.get(client.stream_id)
            if stored is None:
                self.kernel.fail(f"{client} knows of {client.stream_id}, and the journal does not")
            written = [len(held.emitted.ids) for held in stored.choices]
            if any(seen > count for seen, count in zip(client.seen, written, strict=True)):
                self.kernel.fail(f"{client} has seen {client.seen} tokens, of which {written} are in the journal")

    @property
    def _disk_was_full(self) -> bool:
        return any(fault.kind == "disk full" for fault in self.faults)

    def _count(self) -> Counter[str]:
        """What a run of many histories must have seen some of, or it would prove nothing."""
        happened = Counter(f"fault: {fault.kind}" for fault in self.faults)
        happened.update(f"request {client.state}" for client in self.clients)
        happened["request tried again"] = sum(client.tries for client in self.clients)
        happened["stream resumed"] = sum(client.returns for client in self.clients)
        happened["drain"] = self._was_to_drain
        happened["steps that overlap"] = self.shape.overlap
        happened.update(self._poison.count())
        happened["conviction of an innocent one, by three kills"] = self._wronged
        for gateway in self.gateways:
            happened["gateway process"] += 1
            happened["engine lost"] += gateway.table.deaths
            happened["engine given up"] += len(gateway.lifecycle._placement._given_up)
            happened["replay"] += gateway.counts.replays
            happened["preemption"] += gateway.counts.preemptions
            happened["prefix hit"] += gateway.counts.prefix_hits
            happened["output lost"] += sum(process.transport.lost_outputs for process in gateway.table.processes)
            happened["conviction"] += gateway.counts.convictions
            happened["stream of an earlier process"] += gateway.restored
            happened["journal down"] += gateway.durable.failures if gateway.durable is not None else 0
        return happened

    @property
    def _settled(self) -> bool:
        """No engine has to be replaced any more, none is starting, and nothing is generated for nobody."""
        gateway = self.gateway
        placement = gateway.lifecycle._placement
        up = {(replica, each.epoch) for replica, each in placement._incarnations.items()}
        serving = [process for process in gateway.table.alive if not process.stands_by]
        alive = {(process.replica, process.epoch) for process in serving if not process.is_sick}
        idle = not gateway.lifecycle._state.choices
        return idle and up == alive and len(up) + len(placement._given_up) == self.shape.replicas

    # --- calls -------------------------------------------------------------------------------------------------

    def _call_later(self, client: Client, delay: float) -> None:
        self.kernel.after(delay, lambda: self._call(client))

    def _call(self, client: Client) -> None:
        """Or again a little later, where no server listens."""
        gateway = self.gateway
        if client.over or client.state == "calling":
            return
        if gateway.loop.dead or gateway.closed or not gateway.has_been_up:
            if gateway.down and not self._follows:
                client.state = "cut"
            else:
                self._call_later(client, 0.5)
        elif client.stream_id is None:
            gateway.call(client)
        else:
            gateway.come_back(client)

    # --- gateways ----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """As for an upgrade, or for good."""
        gateway = self.gateway
        if gateway.loop.dead or not gateway.has_been_up:
            self.kernel.after(0.5, self._drain)
            return
        gateway.shut_down(self._rng.choice([0.1, 2.0]))
        self._after_drain(gateway)

    def _after_drain(self, gateway: SimGateway) -> None:
        if gateway.loop.dead:  # killed in its drain
            self._drains_at = None
        elif not gateway.down:
            self.kernel.after(0.1, lambda: self._after_drain(gateway))
        else:
            self._drains_at = None
            if self._follows:
                self._bring_up()

    def _kill_gateway(self) -> None:
        gateway = self.gateway
        if gateway.down or gateway.loop.dead:
            return
        gateway.kill9()
        if gateway.durable is not None and not self._disk_was_full:
            self._look_at_what_is_left(gateway.durable)
        for client in self.clients:
            client.cut_off()
            if client.state == "away":
                self._call_later(client, self._rng.uniform(0, 2))
        self.kernel.after(self._rng.uniform(0.1, 1.0), self._bring_up)

    # --- what goes wrong ---------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self._trouble = self.gateway.table.trouble = 0.0
        if self._disk is not None:
            self._disk.full = False
        for process in [process for gateway in self.gateways for process in gateway.table.alive]:
            process.heal()

    def _strike(self, fault: Fault) -> None:
        gateway, rng = self.gateway, self._rng
        if gateway.loop.dead or (gateway.draining and fault.kind == "drain replica"):
            return
        self.kernel.note("fault:", fault.kind)
        if fault.kind == "clock jump":
            jump = rng.choice([1.0, 60.0, 86400.0])
            gateway.loop.jump(jump)
            for process in gateway.table.alive:
                process.skew += rng.choice([0.0, jump])
        elif fault.kind == "gateway killed":
            self._kill_gateway()
        elif fault.kind == "disk full":
            if self._disk is not None:
                self._disk.full = True
        elif fault.kind == "gateway pause":
            gateway.loop.pause(rng.choice([0.05, 1.0, 20.0]))
        elif fault.kind == "drain replica":
            gateway.soon(lambda: gateway.lifecycle.drain_replica(fault.number % self.shape.replicas))
        else:
            alive = [process for process in gateway.table.alive if not process.ending]
            if alive:
                self._strike_engine(rng.choice(alive), fault)

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
        if isinstance(error, Unavailable):
            if any(gateway.lifecycle.failure is not None or gateway.closed for gateway in self.gateways):
                return True
            return self.gateway.draining and not client.has_tokens
        if isinstance(error, NotFound):
            # Without a journal, or with one that could not be written, a stream dies with its server.
            return len(self.gateways) > 1 and (self._disk is None or self._disk_was_full)
        if isinstance(error, Gone):
            return any(fault.kind in ("clock jump", "gateway pause") for fault in self.faults)
        processes = [process for gateway in self.gateways for process in gateway.table.processes]
        if isinstance(error, EngineCrash):
            if client.call.poison is not None:
                return True
            # From outside, three crashes of an innocent one at its one position look like guilt.
            self._wronged += 1
            tables = [gateway.table for gateway in self.gateways]
            return any(table.most_found(client.request.id) > CONVICTION for table in tables)
        return isinstance(error, InternalError) and sum(process.transport.lost_outputs for process in processes) > GAPS
