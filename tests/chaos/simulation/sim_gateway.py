"""A gateway process: the production lifecycle, placement, router, journal, admission and supervisors on their loop.

What HTTP does around them is here in a few lines: a call is admitted, prepared, submitted, read, and cancelled when
its client goes away (as ``gateway/endpoint.py`` and ``gateway/respond.py`` do).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from sim_client import Client
from sim_disk import Disk, SimJournal
from sim_event_loop import GatewayLoop
from sim_kernel import Kernel
from sim_listener import Listener
from sim_model import tokenizer
from sim_network import Context, Network
from sim_process_table import ProcessTable
from sim_world import GRACE, LIMITS, Shape

from gateway.admission import Admission, Tenant, Ticket
from gateway.completion.journal import MemoryJournal
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.recording import Reader, Recording
from gateway.completion.request import Request
from gateway.completion.stream import Stream
from gateway.completion.streams import Streams
from gateway.errors import APIError, RateLimited
from gateway.replicas.client import Client as Connection
from gateway.replicas.router import Router
from gateway.replicas.supervisor import Supervisor
from observability.records import Conviction, EngineEvent, Record, Replay, RequestStats, StepStats

KEY = b"key"


class LoopClock:
    def __init__(self, loop: GatewayLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Counts:
    """What a gateway process has recorded."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.replays = self.convictions = self.preemptions = self.prefix_hits = 0
        self.ended = 0
        """Requests of which statistics were recorded, as of each at its end."""

    def record(self, record: Record, *, replica: str = "0") -> None:
        if isinstance(record, StepStats):
            self.preemptions += record.preemptions
            self.prefix_hits += record.prefix_hits
        elif isinstance(record, RequestStats):
            self.ended += 1
        elif isinstance(record, EngineEvent):
            self._kernel.note(f"engine {replica}.{record.epoch}", record.kind, record.cause, record.message)
        elif isinstance(record, Conviction):
            self.convictions += 1
        elif isinstance(record, Replay):
            self.replays += 1
            self._kernel.note("a replay goes to replica", replica)


class SimGateway:
    def __init__(
        self,
        kernel: Kernel,
        network: Network,
        shape: Shape,
        *,
        number: int,
        disk: Disk | None,
        call_again: Callable[[Client, float], None],
    ) -> None:
        """``number`` counts the gateway processes of a history; ``call_again`` has clients call or come back later."""
        self.number = number
        self._call_again = call_again
        self.kernel = kernel
        self.shape = shape
        self.loop = GatewayLoop(kernel)
        self.table = ProcessTable(kernel, network, self.loop, shape)
        self.context = Context(network, self.loop)
        self.counts = Counts(kernel)
        clock = LoopClock(self.loop)
        self.journal = MemoryJournal()
        self.router = Router(shape.routing, rng=kernel.stream("router"))
        self.lifecycle = Lifecycle(
            tokenizer(),
            record=self.counts.record,
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
        self.durable = SimJournal(kernel, self.loop, disk) if disk is not None else None
        self.streams = Streams(
            self.lifecycle,
            tokenizer(),
            grace=GRACE,
            clock=clock,
            journal=self.durable,
            enter=self._enter_again,
        )
        self.restored = 0
        """Requests of an earlier process that go on here."""
        self.read_again = 0
        """Times that somebody came for an answer that was complete and that nobody read."""
        self.listener = Listener(self)
        self.supervisors = [self._supervisor(replica, clock) for replica in range(shape.replicas)]
        self.accepted = 0
        self.random = kernel.stream(f"gateway {number}")
        self.tenants: set[Tenant] = set()
        self.inside: Counter[str] = Counter()
        """Requests inside, by tenant."""
        self.draining = self.closed = self.down = False

    def _supervisor(self, replica: int, clock: LoopClock) -> Supervisor:
        return Supervisor(
            self.shape.config(replica),
            self.table,
            self.listener,
            replica=replica,
            standby=self.shape.standby,
            clock=clock,
            limits=LIMITS,
            connect=lambda replica, epoch: Connection(self.context, replica, epoch),  # type: ignore[arg-type]
        )

    def soon(self, call: Callable[[], object]) -> None:
        """In a turn of the loop."""
        self.loop.call_soon(call)

    def start(self) -> None:
        self.soon(self.streams.open_journal)
        for supervisor in self.supervisors:
            self.soon(supervisor.start)

    @property
    def has_been_up(self) -> bool:
        return self.lifecycle.info is not None or self.lifecycle.failure is not None

    # --- clients -----------------------------------------------------------------------------------------------

    def _enter_again(self, request: Request) -> Callable[[], None]:
        ticket = self.admission.enter_again(request.tenant)
        self.inside[request.tenant] += 1
        if self.streams._recordings[request.id].over:
            self.read_again += 1
        else:
            self.accepted += 1
            self.restored += 1
        return lambda: self._leave(request.tenant, ticket)

    def _leave(self, tenant: str, ticket: Ticket) -> None:
        self.inside[tenant] -= 1
        ticket.leave()

    def call(self, client: Client) -> None:
        client.state = "calling"
        self.tenants.add(client.call.tenant)
        self.soon(lambda: self._begin(client))

    def come_back(self, client: Client) -> None:
        client.state = "calling"
        self.soon(lambda: self._begin(client))

    def _begin(self, client: Client) -> None:
        task = self.loop.create_task(self._serve(client) if client.stream_id is None else self._resume(client))
        task.add_done_callback(lambda task: task.result())
        patience = client.call.patience
        if patience is not None and client.returns < 2:
            self.kernel.after(patience, lambda: self.soon(lambda: self._disconnect(client, task)))

    def _disconnect(self, client: Client, task: asyncio.Task[None]) -> None:
        if not task.done():
            self.kernel.note(client, "disconnects")
            client.disconnected = client.stream_id is None
            task.cancel()

    async def _serve(self, client: Client) -> None:
        tenant = client.call.tenant.name
        try:
            ticket = self.admission.enter(client.call.tenant)
        except RateLimited as error:
            self._refuse(client, error)
            return
        self.inside[tenant] += 1
        recorded = False
        stream: Stream | None = None
        try:
            await asyncio.sleep(client.call.preparation)
            request = replace(client.request, id=f"{client.request.id}.{client.tries}.{self.number}")
            self.admission.check_tokens(request.num_prompt_tokens)
            if client.call.resumes:
                recording = self.streams.submit(request, key=KEY, form=b"", on_end=lambda: self._leave(tenant, ticket))
                recorded = True
                self._accept(client, ticket, request)
                await self._read_recorded(client, recording)
                return
            stream = self.lifecycle.submit(request)
            self._accept(client, ticket, request)
            async for events in stream:
                client.feed(events)
                if client.call.pace:
                    await asyncio.sleep(client.call.pace)
            client.end()
        except asyncio.CancelledError:
            await self._part(client, stream)
        except APIError as error:
            if client.accepted:
                self._fail(client, error)
            else:
                self._refuse(client, error)
        finally:
            if not recorded:
                self._leave(tenant, ticket)

    def _accept(self, client: Client, ticket: Ticket, request: Request) -> None:
        self.accepted += 1
        client.accepted = True
        ticket.submitted()
        self.kernel.note(request.id, "is accepted")

    def _fail(self, client: Client, error: APIError) -> None:
        self.kernel.note(client, "fails:", error.message)
        client.fail(error)

    # --- streams that may be resumed ---------------------------------------------------------------------------

    async def _read_recorded(self, client: Client, recording: Recording) -> None:
        reader = recording.read([0] * client.request.num_choices)
        try:
            await recording.saved()
        except asyncio.CancelledError:
            self.streams.abandon(recording)
            client.state = "gone"
            return
        client.stream_id = recording.request.id
        await self._read(client, reader)

    async def _resume(self, client: Client) -> None:
        assert client.stream_id is not None
        try:
            recording = self.streams.find(client.stream_id, KEY)
        except APIError as error:
            self._fail(client, error)
            return
        if not recording.reaches(client.seen):
            self.kernel.fail(f"{client} has seen {client.seen} tokens, which the server has not")
        self.kernel.note(client, "comes back, after", client.seen)
        reader = recording.read(client.seen)
        client.come_back()
        await self._read(client, reader)

    async def _read(self, client: Client, reader: Reader) -> None:
        try:
            async for events in reader:
                client.feed(events)
                if client.call.pace:
                    await asyncio.sleep(client.call.pace)
            client.end()
        except asyncio.CancelledError:
            reader.cancel()
            client.leave()
            if not client.over:
                self._call_again(client, self.random.uniform(0, 3))
        except APIError as error:
            if error.code == "stream_parked" and self.lifecycle.failure is None:
                client.state = "away"
                self._call_again(client, 1.0)
            else:
                self._fail(client, error)

    # --- partings ----------------------------------------------------------------------------------------------

    async def _part(self, client: Client, stream: Stream | None) -> None:
        """The client is gone: what there still is for it is looked at all the same."""
        if stream is None:
            client.state = "gone"
            return
        stream.cancel()
        if f"{client.request.id}.{client.tries}.{self.number}" in self.lifecycle._book._requests:
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
            self._call_again(client, min(wait, 3.0))
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
        await self.streams.close()
        self.table.stopping = True
        await asyncio.gather(*(supervisor.stop() for supervisor in self.supervisors))
        self.down = True
        self.kernel.note("the gateway is down")

    def kill9(self) -> None:
        """Nothing of it runs any more, and its engines notice."""
        self.kernel.note("the gateway is killed")
        self.loop.kill()
        self.table.parent_died()
