"""Bugs, each a change to the production classes, that the simulation must notice.

Each is a context manager under the name of the rule that it breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import msgspec

from engine.block_pool import BlockPool
from engine.messages import Abort, Tokens
from engine.outbox import Outbox
from engine.prefix_cache import PrefixCache
from engine.scheduler import Scheduler
from engine.sequence import Sequence as EngineSequence
from engine.sequence import Status
from gateway.admission import Admission
from gateway.completion.choice import ActiveRequest, Choice, Incarnation
from gateway.completion.durable import DurableJournal
from gateway.completion.events import Completed, FinishReason
from gateway.completion.journal import MemoryJournal
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.placement import Placement
from gateway.completion.recording import Recording
from gateway.completion.streams import Streams
from gateway.completion.transitions import Transitions
from gateway.replicas.launchers import EngineProcess
from gateway.replicas.prefix_index import PrefixIndex
from gateway.replicas.watched_engine import Progress, WatchedEngine

Planting = Callable[[], AbstractContextManager[None]]
BUGS: dict[str, Planting] = {}


def planted(name: str, bug: Callable[..., Any], *places: tuple[type, str]) -> None:
    """``bug`` stands in for the methods named, each of which it is given as its first argument."""

    @contextmanager
    def plant() -> Iterator[None]:
        patches = []
        for owner, method in places:
            original = getattr(owner, method)
            changed = lambda *args, _original=original, **options: bug(_original, *args, **options)  # noqa: E731
            patches.append(patch.object(owner, method, changed))
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()

    BUGS[name] = plant


# --- what the gateway may accept -----------------------------------------------------------------------------------


def _any_attempt(_: Any, self: Lifecycle, incarnation: Incarnation, choice_id: str, attempt: int) -> Choice | None:
    return incarnation.running.get(choice_id)


def _any_position(original: Any, self: Lifecycle, choice: Choice, output: Tokens, *rest: Any) -> None:
    original(self, choice, msgspec.structs.replace(output, at=len(choice.emitted.ids)), *rest)


def _any_epoch(_: Any, self: Placement, replica: int, epoch: int) -> Incarnation | None:
    return self._incarnations.get(replica)


planted("a stale attempt is accepted", _any_attempt, (Lifecycle, "_current"))
planted("a gap is ignored", _any_position, (Lifecycle, "_accept"))
planted("an old epoch is accepted", _any_epoch, (Placement, "find"))


# --- what becomes of a choice --------------------------------------------------------------------------------------


def _nothing(_: Any, *args: Any, **options: Any) -> None:
    pass


def _only_what_runs(original: Any, self: Transitions, active: ActiveRequest) -> None:
    if all(choice.state == "running" for choice in active.choices if choice.state != "done"):
        original(self, active)


def _completed_twice(original: Any, self: Transitions, choice: Choice, reason: FinishReason) -> None:
    original(self, choice, reason)
    if not choice.request.remaining:
        choice.request.stream.push(Completed(choice.request.usage()))


def _one_token_less(original: Any, self: Choice, **options: Any) -> Any:
    start = original(self, **options)
    return msgspec.structs.replace(start, output_prefix=start.output_prefix[:-1])


def _one_token_twice(original: Any, self: Choice, **options: Any) -> Any:
    start = original(self, **options)
    prefix = start.output_prefix
    return msgspec.structs.replace(start, output_prefix=[*prefix[1:], *prefix[-1:]])


def _emitted_is_forgotten(original: Any, self: MemoryJournal, choice_id: str, ids: Sequence[int], *rest: Any) -> None:
    original(self, choice_id, ids[:1], *rest)


def _drain_is_not_asked(original: Any, self: Transitions, choice: Choice) -> None:
    draining, self.draining = self.draining, False
    try:
        original(self, choice)
    finally:
        self.draining = draining


planted("an abort is dropped", _nothing, (Transitions, "abort_attempt"))
planted("a cancelled choice stays pending", _only_what_runs, (Transitions, "cancel"))
planted("what was lost is not replayed", _nothing, (Transitions, "dispatch_pending"))
planted("a request is completed twice", _completed_twice, (Transitions, "finish"))
planted("output_prefix is one token short", _one_token_less, (Choice, "start"))
planted("output_prefix repeats a token", _one_token_twice, (Choice, "start"))
planted("the journal misses tokens that came together", _emitted_is_forgotten, (MemoryJournal, "append"))
planted("a drain keeps what is parked", _nothing, (Transitions, "fail_parked"))
planted("a drain is not asked at dispatch", _drain_is_not_asked, (Transitions, "dispatch"))


# --- where it runs -------------------------------------------------------------------------------------------------


def _load_stays(original: Any, self: Placement, choice: Choice) -> None:
    place = choice.place
    original(self, choice)
    if place is not None:
        place.incarnation.load += place.output_load


class _Spared:
    """A process that is said to be dead as soon as somebody wants it to be."""

    def __init__(self, process: EngineProcess) -> None:
        self._process = process
        self._given_up = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def kill(self) -> None:
        self._given_up.set()

    async def wait(self) -> int:
        ways = [asyncio.create_task(self._process.wait()), asyncio.create_task(self._given_up.wait())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        return -9


async def _lost_before_it_is_dead(original: Any, self: WatchedEngine) -> Any:
    self._process = _Spared(self._process)
    return await original(self)


planted("an engine is Lost before it is dead", _lost_before_it_is_dead, (WatchedEngine, "run"))
planted("a lost replica's blocks stay in the index", _nothing, (PrefixIndex, "drop"))
planted("load is not given back", _load_stays, (Placement, "leave"))
planted("a stuck engine is not noticed", _nothing, (Progress, "passed"))


# --- blocks --------------------------------------------------------------------------------------------------------


def _freed_while_shared(original: Any, self: BlockPool, table: Sequence[int]) -> None:
    original(self, table)
    for block in table:
        self._free[block] = None


def _found_without_a_reference(_: Any, self: BlockPool, blocks: Sequence[int]) -> None:
    for block in blocks:
        if self._references[block] == 0:
            del self._free[block]
            self._references[block] = 1


def _taken_while_findable(original: Any, self: BlockPool, count: int) -> list[int]:
    known, index = dict(self._digests), dict(self._index)
    blocks = original(self, count)
    self._digests, self._index = known, index
    return blocks


def _published_too_early(original: Any, self: PrefixCache, sequence: EngineSequence) -> None:
    computed = sequence.num_computed
    sequence.num_computed = min(sequence.num_tokens, len(sequence.block_table) * self._block_size)
    original(self, sequence)
    sequence.num_computed = computed


def _released_without_its_tail(original: Any, self: BlockPool, table: Sequence[int]) -> None:
    original(self, table[:-1] if len(table) > 2 else table)


planted("a block is free while it is shared", _freed_while_shared, (BlockPool, "release"))
planted("a prefix hit takes no reference", _found_without_a_reference, (BlockPool, "share"))
planted("a block that is handed out stays findable", _taken_while_findable, (BlockPool, "allocate"))
planted("a partial block is published as full", _published_too_early, (PrefixCache, "advance"))
planted("the last block leaks", _released_without_its_tail, (BlockPool, "release"))


# --- the engine's queues -------------------------------------------------------------------------------------------


def _waits_for_ever(original: Any, self: PrefixCache, sequence: EngineSequence) -> bool:
    if sequence.deferred_to is not None and sequence.deferred_to[0].status is Status.FINISHED:
        return True
    return original(self, sequence)


def _abort_while_waiting_is_lost(original: Any, self: Scheduler, abort: Abort) -> None:
    sequence = self._sequences.get(abort.id)
    if sequence is None or sequence.status is Status.RUNNING:
        original(self, abort)


def _urgent_overtakes(original: Any, self: Outbox, keys: Any) -> Any:
    """What waits for the interval is left behind when a later message of its choice is urgent."""
    for key, parts in self._held.items():
        if key in self._urgent and len(parts) > 1:
            del parts[:-1]
    return original(self, keys)


planted("a sequence waits for one that has ended", _waits_for_ever, (PrefixCache, "is_deferred"))
planted("a waiting sequence is not aborted", _abort_while_waiting_is_lost, (Scheduler, "abort"))
planted("the last tokens overtake those held", _urgent_overtakes, (Outbox, "_take"))


# --- the durable journal and those who come back -------------------------------------------------------------------


def _shown_at_once(original: Any, self: Recording, entry: Any, show: Callable[[], None]) -> None:
    show()
    if self.reader is not None:
        self.reader.wake()
    original(self, entry, lambda: None)


async def _not_waited_for(_: Any, self: Recording) -> None:
    pass


async def _reader_is_not_asked(_: Any, self: Streams, recording: Recording) -> None:
    try:
        while (left := recording.idle_since + self._grace - self._clock.now()) > 0:
            await self._clock.sleep(left)
        self._drop(recording)
    finally:
        self._waits.pop(recording.request.id, None)


def _read_from_the_end(original: Any, self: Recording, seen: Sequence[int]) -> Any:
    reader = original(self, seen)
    reader._seen = [0] * len(seen)
    return reader


planted("tokens are shown before they are committed", _shown_at_once, (Recording, "_then"))
planted("a stream is answered before it is durable", _not_waited_for, (Recording, "saved"))
planted("a stream is never forgotten on the disk", _nothing, (DurableJournal, "forget"))
planted("the grace time ends under a reader", _reader_is_not_asked, (Streams, "_wait_out"))
planted("no event ends where its reader was", _read_from_the_end, (Recording, "read"))


# --- admission -----------------------------------------------------------------------------------------------------


def _place_is_kept(original: Any, self: Admission, tenant: Any, *, submitted: bool, duration: float) -> None:
    if submitted:
        original(self, tenant, submitted=submitted, duration=duration)


def _queue_has_no_end(original: Any, self: Admission, tenant: Any) -> Any:
    most, self._max_requests = self._max_requests, 1 << 30
    try:
        return original(self, tenant)
    finally:
        self._max_requests = most


def _queue_of_tokens_has_no_end(_: Any, self: Admission, tokens: int) -> None:
    pass


def _nobody_is_counted(original: Any, self: Admission, tenant: Any) -> Any:
    return original(self, replace(tenant, max_concurrency=None))


planted("a key may have any number of requests", _nobody_is_counted, (Admission, "enter"))
planted("the queue's tokens have no end", _queue_of_tokens_has_no_end, (Admission, "check_tokens"))
planted("a refused request keeps its place", _place_is_kept, (Admission, "_left"))
planted("the queue has no end", _queue_has_no_end, (Admission, "enter"))


# --- a pause of the gateway ----------------------------------------------------------------------------------------


def _whole_pause(_: Any, self: Progress, seconds: float) -> tuple[str, str] | None:
    self._silent += seconds
    self._stalled += seconds
    if self._silent > (self._limits.silence if self.up else self._limits.startup_silence):
        return "silent", "silent"
    return ("stalled", "no step") if self.up and self._stalled > self._may_stall else None


planted("a pause of the gateway counts against its engines", _whole_pause, (Progress, "passed"))
