"""A gateway process: the production lifecycle, placement, router, journal, admission and supervisors on their loop.

What HTTP does around them is here in a few lines: a call is admitted, prepared, submitted, read, and cancelled when
its client goes away (as ``gateway/endpoint.py`` and ``gateway/respond.py`` do).
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from sim_client import Client
from sim_event_loop import GatewayLoop
from sim_kernel import Kernel
from sim_model import tokenizer
from sim_network import Context, Network
from sim_process_table import ProcessTable
from sim_world import LIMITS, Shape

from engine.messages import CacheEvents, EngineInfo, Idle, Rejected, Start, StepOutput, ToEngine
from gateway.admission import Admission, Tenant
from gateway.completion.journal import MemoryJournal
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.stream import Stream
from gateway.errors import APIError, RateLimited
from gateway.replicas.client import Client as Connection
from gateway.replicas.loss import Loss
from gateway.replicas.router import Router
from gateway.replicas.supervisor import Supervisor
from observability.records import Conviction, EngineEvent, Record, Replay, RequestStats, StepStats


class LoopClock:
    def __init__(self, loop: GatewayLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Listener:
    """Between supervisors and the lifecycle: hands on what is said, looks at what is sent, and repeats itself.

    What an engine has said is said again, now and then, after it was Lost: the epoch tells the lifecycle that it means
    nothing any more.
    """

    def __init__(self, gateway: SimGateway) -> None:
        self._gateway = gateway
        self._random = gateway.kernel.stream("listener")
        self._last_place: dict[str, tuple[int, int]] = {}
        self._restarts: Counter[str] = Counter()
        self._suspected: Counter[str] = Counter()
        self._said: dict[tuple[int, int], list[StepOutput | CacheEvents | Idle | Rejected]] = {}

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None:
        def tapped(message: ToEngine) -> None:
            if isinstance(message, Start):
                self._look_at_start(message, (replica, epoch))
            send(message)

        self._gateway.lifecycle.up(replica, epoch, info, tapped)

    def lost(self, replica: int, epoch: int, loss: Loss) -> None:
        self._gateway.lifecycle.lost(replica, epoch, loss)
        for message in self._said.pop((replica, epoch), []):
            if self._random.random() < 0.2:
                again = functools.partial(self._gateway.lifecycle.receive, replica, epoch, message)
                self._gateway.loop.call_later(self._random.uniform(0, 3), again)

    def receive(self, replica: int, epoch: int, message: StepOutput | CacheEvents | Idle | Rejected) -> None:
        said = self._said.setdefault((replica, epoch), [])
        if len(said) < 20 and self._random.random() < 0.5:
            said.append(message)
        self._gateway.lifecycle.receive(replica, epoch, message)

    def gave_up(self, replica: int, message: str) -> None:
        self._gateway.lifecycle.gave_up(replica, message)

    def _look_at_start(self, start: Start, where: tuple[int, int]) -> None:
        if self._last_place.get(start.id) == where:
            self._restarts[start.id] += 1
            # A suspect that has been cleared makes room for the next one.
            causes = self._gateway.table.lost_outputs[start.id] + self._suspected[start.id]
            if self._restarts[start.id] > causes:
                self._gateway.kernel.fail(f"{start.id} is started again where nothing of it was lost")
        self._last_place[start.id] = where
        self._suspected[start.id] += start.at_once
        choice = self._gateway.lifecycle._choices.get(start.id)
        if choice is None:
            self._gateway.kernel.fail(f"{start.id} is started, and has ended")
        if self._gateway.draining and not choice.request.emitted:
            self._gateway.kernel.fail(f"{start.id} is started by a server that drains")


class SimGateway:
    def __init__(self, kernel: Kernel, network: Network, shape: Shape) -> None:
        self.kernel = kernel
        self.shape = shape
        self.loop = GatewayLoop(kernel)
        self.table = ProcessTable(kernel, network, self.loop, shape)
        self.context = Context(network, self.loop)
        clock = LoopClock(self.loop)
        self.journal = MemoryJournal()
        self.router = Router(shape.routing, rng=kernel.stream("router"))
        self.lifecycle = Lifecycle(
            tokenizer(),
            record=self._record,
            clock=clock,
            journal=self.journal,
            router=self.router,
            replicas=shape.replicas,
        )
        self.admission = Admission(
            self.lifecycle,
            max_queue_requests=shape.max_queue_requests,
            max_queue_tokens=shape.max_queue_tokens,
            clock=clock.now,
            uniform=kernel.stream("admission").random,
        )
        self.listener = Listener(self)
        self.supervisors = [
            Supervisor(
                shape.config(replica),
                self.table,
                self.listener,
                replica=replica,
                standby=shape.standby,
                clock=clock,
                limits=LIMITS,
                connect=lambda replica, epoch: Connection(self.context, replica, epoch),  # type: ignore[arg-type]
            )
            for replica in range(shape.replicas)
        ]
        self.accepted = 0
        self.tenants: set[Tenant] = set()
        self.inside: Counter[str] = Counter()
        """Requests inside, by tenant."""
        self.replays = self.convictions = self.preemptions = self.prefix_hits = 0
        self.ended = 0
        """Requests of which statistics were recorded, as of each at its end."""
        self.draining = self.closed = self.down = False

    def _record(self, record: Record, *, replica: str = "0") -> None:
        if isinstance(record, StepStats):
            self.preemptions += record.preemptions
            self.prefix_hits += record.prefix_hits
        elif isinstance(record, RequestStats):
            self.ended += 1
        elif isinstance(record, EngineEvent):
            self.kernel.note(f"engine {replica}.{record.epoch}", record.kind, record.cause, record.message)
        elif isinstance(record, Conviction):
            self.convictions += 1
        elif isinstance(record, Replay):
            self.replays += 1
            self.kernel.note("a replay goes to replica", replica)

    def soon(self, call: Callable[[], object]) -> None:
        """In a turn of the loop."""
        self.loop.call_soon(call)

    def start(self) -> None:
        for supervisor in self.supervisors:
            self.soon(supervisor.start)

    @property
    def has_been_up(self) -> bool:
        return self.lifecycle.info is not None or self.lifecycle.failure is not None

    # --- clients -----------------------------------------------------------------------------------------------

    def call(self, client: Client) -> None:
        client.state = "calling"
        self.tenants.add(client.call.tenant)
        self.soon(lambda: self._begin(client))

    def _begin(self, client: Client) -> None:
        task = self.loop.create_task(self._serve(client))
        task.add_done_callback(lambda task: task.result())
        patience = client.call.patience
        if patience is not None:
            self.kernel.after(patience, lambda: self.soon(lambda: self._disconnect(client, task)))

    def _disconnect(self, client: Client, task: asyncio.Task[None]) -> None:
        if not client.over:
            self.kernel.note(client, "disconnects")
            client.disconnected = True
            task.cancel()

    async def _serve(self, client: Client) -> None:
        tenant = client.call.tenant.name
        try:
            ticket = self.admission.enter(client.call.tenant)
        except RateLimited as error:
            self._refuse(client, error)
            return
        self.inside[tenant] += 1
        stream: Stream | None = None
        try:
            await asyncio.sleep(client.call.preparation)
            request = replace(client.request, id=f"{client.request.id}.{client.tries}")
            self.admission.check_tokens(request.num_prompt_tokens)
            stream = self.lifecycle.submit(request)
            self.accepted += 1
            client.accepted = True
            ticket.submitted()
            self.kernel.note(request.id, "is accepted")
            async for events in stream:
                client.feed(events)
                if client.call.pace:
                    await asyncio.sleep(client.call.pace)
            client.end()
        except asyncio.CancelledError:
            await self._part(client, stream)
        except APIError as error:
            if client.accepted:
                self.kernel.note(client, "fails:", error.message)
                client.fail(error)
            else:
                self._refuse(client, error)
        finally:
            self.inside[tenant] -= 1
            ticket.leave()

    async def _part(self, client: Client, stream: Stream | None) -> None:
        """The client is gone: what there still is for it is looked at all the same."""
        if stream is None:
            client.state = "gone"
            return
        stream.cancel()
        if f"{client.request.id}.{client.tries}" in self.lifecycle._book._requests:
            self.kernel.fail(f"{client} has gone, and its request has not")
        stream.cancel()
        try:
            async for events in stream:
                client.feed(events)
            client.end()
        except APIError:
            client.state = "gone"

    def _refuse(self, client: Client, error: APIError) -> None:
        self.kernel.note(client, "is refused:", error.message)
        if client.tries < client.call.retries and not client.disconnected:
            client.try_again()
            wait = float(error.headers["retry-after-ms"]) / 1000
            self.kernel.after(min(wait, 3.0), lambda: self.call(client))
        else:
            client.state = "gone" if client.disconnected else "refused"

    # --- the end -----------------------------------------------------------------------------------------------

    def shut_down(self, drain_timeout: float) -> None:
        self.soon(lambda: self.loop.create_task(self._shut_down(drain_timeout)))

    async def _shut_down(self, drain_timeout: float) -> None:
        """As ``gateway/server.py`` does it."""
        self.kernel.note("the gateway drains")
        self.draining = True
        self.lifecycle.drain()
        await asyncio.wait([asyncio.create_task(self.lifecycle.wait_idle())], timeout=drain_timeout)
        self.closed = True
        self.lifecycle.close()
        self.table.stopping = True
        await asyncio.gather(*(supervisor.stop() for supervisor in self.supervisors))
        self.down = True
        self.kernel.note("the gateway is down")
