"""What must hold after every event, and at the end. Each function raises ``Violation``, or the product's own error."""

from __future__ import annotations

from sim_gateway import SimGateway
from sim_kernel import Violation
from sim_process import SimProcess

EMPTY = 0xFFFFFFFF
HEARING = 0.1
"""Seconds in which a message has arrived for certain."""


class Watch:
    """Remembers what it takes to judge the next event."""

    def __init__(self, gateway: SimGateway) -> None:
        self._gateway = gateway
        self._contents: dict[bytes, int] = {}
        """Digest → what the cache held in the last slot of the first block that was published under it."""
        self._orphans: dict[tuple[SimProcess, str], tuple[float, int]] = {}
        """What an engine computes and the gateway does not wait for: since when, and since which step."""
        self._turns = -1

    def look(self) -> None:
        gateway = self._gateway
        table = gateway.table
        if table.broken:
            process, error = table.broken[0]
            raise Violation(f"{process} ended by {type(error).__name__}: {error}") from error
        if table.unjust:
            raise Violation(f"{table.unjust[0]} was killed though nothing was wrong with it")
        for context in gateway.loop.errors:
            raise Violation(f"nobody caught: {context}") from context.get("exception")
        for process in table.active:
            if process.alive and process.engine is not None:
                self._look_at_engine(process)
        table.active.clear()
        if gateway.loop.turns != self._turns:
            self._turns = gateway.loop.turns
            look_at_gateway(gateway)

    def _look_at_engine(self, process: SimProcess) -> None:
        engine, executor = process.engine, process.executor
        assert engine is not None and executor is not None
        engine.check_integrity()
        for block, digest in engine._pool._digests.items():
            held = int(executor._slots[block, -1])
            if held == EMPTY or self._contents.setdefault(digest, held) != held:
                raise Violation(f"{process}: block {block} does not hold what it is published for")
        self._look_for_orphans(process)

    def _look_for_orphans(self, process: SimProcess) -> None:
        """What was cancelled is not computed any more, once the engine has had the time to hear of it."""
        assert process.engine is not None
        wanted, now = self._gateway.lifecycle._state.choices, self._gateway.kernel.now
        for name in process.engine._scheduler._sequences:
            if name in wanted or process.ending:
                self._orphans.pop((process, name), None)
                continue
            since, step = self._orphans.setdefault((process, name), (now, process.engine.steps))
            if now - since > HEARING and process.engine.steps - step > 3:
                raise Violation(f"{process} still computes {name}, which has ended")


def look_at_gateway(gateway: SimGateway) -> None:
    lifecycle = gateway.lifecycle
    choices, requests = lifecycle._state.choices, lifecycle._book._requests
    incarnations = lifecycle._placement._incarnations
    for incarnation in incarnations.values():
        places = [choice.place for choice in incarnation.running.values()]
        if any(place is None or place.incarnation is not incarnation for place in places):
            raise Violation(f"replica {incarnation.replica} is said to run what has its place elsewhere")
        load = sum(place.prompt_load + place.output_load for place in places if place is not None)
        if incarnation.load != load:
            raise Violation(f"replica {incarnation.replica} has a load of {incarnation.load} where {load} is right")
    for choice in choices.values():
        if (choice.state == "running") != (choice.place is not None) or choice.state == "done":
            raise Violation(f"{choice.id} is {choice.state}, and its place is {choice.place}")
        if choice.place is not None and choice.place.incarnation.running.get(choice.id) is not choice:
            raise Violation(f"{choice.id} has a place at an engine that does not know it")
        if lifecycle.draining and choice.place is None and not choice.request.emitted:
            raise Violation(f"{choice.id} is parked at a server that drains")
    if len(gateway.journal) != len(choices):
        raise Violation(f"{len(gateway.journal)} choices in the journal, {len(choices)} alive")
    if sum(request.remaining for request in requests.values()) != len(choices):
        raise Violation("requests and choices disagree about what is not done")
    waiting = [request.request for request in requests.values() if not request.begun]
    counted = lifecycle.queued_requests, lifecycle.queued_tokens
    if counted != (len(waiting), sum(request.num_prompt_tokens for request in waiting)):
        raise Violation(f"{counted} counted as queued, {len(waiting)} requests are")
    if lifecycle.queued_requests > gateway.shape.max_queue_requests + gateway.restored:
        raise Violation(f"{lifecycle.queued_requests} requests wait, {gateway.shape.max_queue_requests} may")
    many = lifecycle.queued_tokens > gateway.shape.max_queue_tokens and lifecycle.queued_requests > 1
    if many and not gateway.restored:
        raise Violation(f"{lifecycle.queued_tokens} tokens wait, {gateway.shape.max_queue_tokens} may")
    for tenant in gateway.tenants:
        if tenant.max_concurrency is None or gateway.restored or gateway.read_again:
            continue
        if gateway.inside[tenant.name] > tenant.max_concurrency:
            raise Violation(f"{tenant} has {gateway.inside[tenant.name]} requests inside")
    if +gateway.admission._inside != +gateway.inside:
        raise Violation(f"admission counts {gateway.admission._inside}, inside are {gateway.inside}")
    if gateway.accepted - gateway.counts.ended != len(requests):
        raise Violation(f"of {gateway.accepted} requests {gateway.counts.ended} have ended, {len(requests)} are known")


def look_when_quiet(gateway: SimGateway) -> None:
    """No request is left, and everything that was said has arrived."""
    lifecycle, router = gateway.lifecycle, gateway.router
    book = lifecycle._book
    if book._requests or lifecycle._state.choices or len(gateway.journal) or len(lifecycle._state.suspects):
        raise Violation(f"left over: {list(book._requests)} {list(lifecycle._state.choices)} {len(gateway.journal)}")
    if not book._idle.is_set() or lifecycle.queued_requests or lifecycle.queued_tokens:
        raise Violation("idle, and something is counted as waiting")
    if router.index._expected:
        raise Violation("blocks are expected though nothing runs")
    for incarnation in lifecycle._placement._incarnations.values():
        if incarnation.load or incarnation.running:
            raise Violation(f"replica {incarnation.replica} is idle and has a load of {incarnation.load}")
    for recording in gateway.streams._recordings.values():
        if not recording.over:
            raise Violation(f"{recording.request.id} has ended, and its recording has not")
    for replica in range(gateway.shape.replicas) if not gateway.down else ():
        _look_at_quiet_replica(gateway, replica)


def _look_at_quiet_replica(gateway: SimGateway, replica: int) -> None:
    alive = [process for process in gateway.table.alive if process.replica == replica and not process.stands_by]
    if len(alive) > 1:
        raise Violation(f"replica {replica} has {len(alive)} processes")
    incarnation = gateway.lifecycle._placement._incarnations.get(replica)
    index = gateway.router.index
    told = {digest for digest, holders in index._holders.items() if holders >> replica & 1}
    if incarnation is None:
        if told:
            raise Violation(f"replica {replica} is not up and is said to hold {len(told)} blocks")
        return
    if not alive or alive[0].epoch != incarnation.epoch:
        raise Violation(f"replica {replica} is said to be up, and its process is not there")
    engine = alive[0].engine
    assert engine is not None
    if engine.num_pending or engine._pool.num_used:
        raise Violation(f"{alive[0]} is idle with {engine.num_pending} choices and {engine._pool.num_used} blocks")
    if gateway.shape.replicas > 1 and not alive[0].transport.lost_outputs and told != set(engine._pool._index):
        raise Violation(f"{alive[0]} holds {len(engine._pool._index)} blocks, and {len(told)} are known")
