"""The sole owner of request state: ``Pending → Running(replica, epoch, attempt) → Done(reason)`` for each choice.

- Tokens count only if they are of the current attempt and continue exactly where the choice stands; a gap restarts
  the attempt. Then, in this order: append to the journal, fold, send.
- Only ``Lifecycle`` declares Done, and the first reason wins. The fold finds the end in the tokens themselves, so a
  choice whose last token or stop string has arrived is finished in that same turn: nothing that a loss interrupts
  could have been finished already, and finished siblings never restart.
- A loss takes Running back to Pending; a new attempt hands an engine what was emitted as ``output_prefix``, so a
  stream pauses and goes on, at once where another replica is up. Whom a crash counts against runs alone until that is
  cleared up (``suspects``); a choice that brings down one engine after the other fails with its request.
- An accepted request ends with exactly one terminal output: ``Completed``, or an error.

A request's choices are sent in index order and their deltas go out as they arrive: routes announce all choices, in
order, before the first delta. Everything here runs in turns of one event loop, and nothing waits. What each change of
a choice's state takes with it is in ``transitions``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from engine.messages import CacheEvents, EngineInfo, Idle, Rejected, ResetCache, StepOutput, ToEngine, Tokens
from gateway.clock import Clock, SystemClock
from gateway.completion.book import Book
from gateway.completion.choice import ActiveRequest, Choice, Incarnation, ReplicaView
from gateway.completion.journal import Journal, MemoryJournal
from gateway.completion.opening import bring_back
from gateway.completion.placement import Placement
from gateway.completion.recording import Recording
from gateway.completion.request import Request
from gateway.completion.stored import Stored
from gateway.completion.stream import Stream
from gateway.completion.transitions import Transitions, gone
from gateway.errors import InternalError, InvalidRequest, NoRoom, Unavailable
from gateway.replicas.loss import Loss
from gateway.replicas.router import Router
from gateway.tokenizer import Tokenizer
from observability.records import CacheConfig, EngineEvent, EngineState, InterTokenLatencies, Recorder

logger = logging.getLogger(__name__)


class Lifecycle:
    """Supervisors report ``up``, ``lost``, ``gave_up`` and what engines say (``receive``); routes ``submit``."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        record: Recorder,
        clock: Clock | None = None,
        journal: Journal | None = None,
        router: Router | None = None,
        replicas: int = 1,
    ) -> None:
        """``replicas``: how many there are to be."""
        self._clock = clock or SystemClock()
        self._book = Book(record, self._clock)
        self._journal = MemoryJournal() if journal is None else journal
        self._placement = Placement(router or Router(), replicas)
        self._state = Transitions(tokenizer, self._book, self._journal, self._placement)

    # --- what routes and admission ask -----------------------------------------------------------------------

    @property
    def queued_requests(self) -> int:
        """Accepted requests of which the engine has computed nothing yet."""
        return self._book.queued_requests

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of those."""
        return self._book.queued_tokens

    @property
    def running_requests(self) -> int:
        """Accepted requests that the engine has begun."""
        return self._book.running_requests

    @property
    def ready(self) -> bool:
        """Whether new work is welcome."""
        return self._placement.open and not self._state.draining

    @property
    def replicas(self) -> tuple[int, int]:
        """(how many are up, how many there are)."""
        return self._placement.num_up, self._placement.num_replicas

    @property
    def info(self) -> EngineInfo | None:
        """What holds for every replica; None until one has been up, and kept while all restart."""
        return self._placement.info

    @property
    def draining(self) -> bool:
        return self._state.draining

    @property
    def failure(self) -> str | None:
        """Why the engines are given up for good, or None while one is not."""
        return self._state.failure

    def submit(self, request: Request) -> Stream:
        """Accepts a request and sends its choices to an engine. Raises ``Unavailable`` where there is none."""
        info = self._welcome()
        active = ActiveRequest(request, self._clock.now())
        active.stream = stream = Stream(
            lambda: self._state.cancel(active), unscored=request.prompts_to_score, n=request.n
        )
        self._state.enter(active, info.eos_token_ids)
        for choice in active.choices:
            self._state.dispatch(choice)
        return stream

    def submit_recorded(self, recording: Recording) -> None:
        """The same for a request that may be resumed: what becomes of it is recorded. Raises as ``submit`` does."""
        info = self._welcome()
        active = ActiveRequest(recording.request, self._clock.now())
        active.stream = recording
        self._state.enter(active, info.eos_token_ids)
        recording.begin(active.choices, lambda: self._state.cancel(active))
        for choice in active.choices:
            self._state.dispatch(choice)

    def restore(self, recording: Recording, stored: Stored) -> None:
        """Goes on with a request that an earlier process has left: Pending, where its tokens do not end it."""
        active = ActiveRequest(recording.request, self._clock.now())
        active.stream = recording
        self._state.enter(active, stored.head.eos_ids)
        bring_back(active, self._journal, stored)
        recording.go_on(active.choices, lambda: self._state.cancel(active), stored)
        for choice in list(active.choices):
            if choice.state == "done":  # the one before could not be dispatched, and the request has failed
                continue
            emitted = choice.emitted
            delta = choice.fold.feed(emitted.ids, emitted.logprobs, emitted.finish)
            if delta is not None and delta.finish_reason is not None:
                recording.push(delta)
                self._state.finish(choice, delta.finish_reason)
            else:
                self._state.dispatch(choice)

    def drain_replica(self, replica: int) -> None:
        """Nothing new is sent there until its engine is another one; what it has begun goes on."""
        self._placement.drain(replica)

    def replica_views(self) -> list[ReplicaView]:
        """Of the replicas that are up, by number."""
        return [
            ReplicaView(each.replica, each.epoch, each.draining, len(each.running)) for each in self._placement.up_now
        ]

    def reset_prefix_caches(self) -> list[int]:
        """Requests that are submitted after this find nothing that engines have cached now. Gives who was told."""
        told = self._placement.up_now
        for incarnation in told:
            incarnation.send(ResetCache())
        return [incarnation.replica for incarnation in told]

    def drain(self) -> None:
        """A latch: no new requests, and accepted ones that no engine holds and of which nothing was sent end now.

        Streams that have begun go on to their end, across the loss of an engine too.
        """
        self._state.draining = True
        self._state.fail_parked()

    def reopen(self) -> None:
        """Undoes ``drain``: new requests are welcome again."""
        self._state.draining = False

    async def wait_idle(self) -> None:
        """Until no request is left."""
        await self._book.wait_idle()

    def close(self) -> None:
        """Drains, and ends with an error whatever is not done: the last thing before the engines are stopped.

        What a durable journal holds of it stays there for the next process.
        """
        self.drain()
        self._state.fail_all(lambda: Unavailable("The server was shut down.", retry_after=10))

    def _welcome(self) -> EngineInfo:
        """Raises ``Unavailable`` where new work is not."""
        if self._state.draining:
            raise Unavailable("The server is shutting down and takes no new requests.", retry_after=10)
        if self._state.failure is not None:
            raise gone(self._state.failure)
        if not self._placement.open or self.info is None:
            raise Unavailable("The engine is starting; try again shortly.", retry_after=2)
        return self.info

    # --- what supervisors report -----------------------------------------------------------------------------

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None:
        """An engine is ready; ``send`` never waits."""
        self._state.failure = None
        self._placement.up(replica, epoch, info, send)
        self._book.report(CacheConfig(block_size=info.block_size, num_blocks=info.num_blocks), replica)
        self._book.report(EngineEvent(kind="up", epoch=epoch), replica)
        self._state.dispatch_pending()

    def lost(self, replica: int, epoch: int, loss: Loss) -> None:
        """An engine process is dead, for certain, and everything it said before has been received."""
        incarnation = self._placement.find(replica, epoch)
        if incarnation is None:
            return
        self._placement.lost(incarnation)
        self._book.report(EngineEvent(kind="lost", epoch=epoch, cause=loss.kind, message=loss.cause), replica)
        blocks_total = incarnation.info.num_blocks
        self._book.report(EngineState(running=0, waiting=0, blocks_used=0, blocks_total=blocks_total), replica)
        in_flight = list(incarnation.running.values())
        waiting = sum(choice.state == "pending" for choice in self._state.choices.values())
        logger.warning(
            "replica %d lost (%s) with %d choices in flight; %d wait", replica, loss.cause, len(in_flight), waiting
        )
        self._state.take_down(incarnation, loss)
        self._state.dispatch_pending()

    def gave_up(self, replica: int, message: str) -> None:
        """The supervisor will not start this replica again."""
        self._placement.gave_up(replica)
        self._state.dispatch_pending()
        if self._placement.gone:
            self._state.failure = message
            self._state.fail_all(lambda: gone(message))

    def receive(self, replica: int, epoch: int, message: StepOutput | CacheEvents | Idle | Rejected) -> None:
        incarnation = self._placement.find(replica, epoch)
        if incarnation is None:
            return
        if isinstance(message, StepOutput):
            self._receive_step(incarnation, message)
        elif isinstance(message, CacheEvents):
            self._placement.cache_changed(incarnation, message)
        elif isinstance(message, Idle):
            self._book.report(message.state, replica)
        elif (choice := self._current(incarnation, message.id, message.attempt)) is not None:
            said = message.message
            error = NoRoom(said, retry_after=10) if message.no_room else InvalidRequest(said)
            self._state.fail(choice.request, error)
        self._state.after_suspects()

    # --- from tokens to events -------------------------------------------------------------------------------

    def _receive_step(self, incarnation: Incarnation, message: StepOutput) -> None:
        now = self._clock.now()
        gaps: list[float] = []
        for choice_id in message.started:
            if (started := incarnation.running.get(choice_id)) is not None:
                self._book.begin(started.request)
        for output in message.outputs:
            choice = self._current(incarnation, output.id, output.attempt)
            if choice is None:
                continue
            try:
                self._accept(choice, output, now, gaps)
            except Exception:  # a fault of ours in one choice must not reach the others of the step
                logger.exception("request %s failed", choice.request.request.id)
                self._state.fail(choice.request, InternalError("The server failed while it was reading this output."))
        if gaps:
            self._book.report(InterTokenLatencies(values=gaps))
        for stats in message.stats:
            self._book.report(stats, incarnation.replica)
        if message.stats:
            self._book.report(message.stats[-1].state, incarnation.replica)

    def _current(self, incarnation: Incarnation, choice_id: str, attempt: int) -> Choice | None:
        choice = incarnation.running.get(choice_id)
        return choice if choice is not None and choice.attempt == attempt else None

    def _accept(self, choice: Choice, output: Tokens, now: float, gaps: list[float]) -> None:
        if output.at != len(choice.emitted.ids):
            held = len(choice.emitted.ids)
            logger.warning("%s: tokens at %d where %d are held; starting again", choice.id, output.at, held)
            self._state.restart(choice)
            return
        active = choice.request
        if output.stats is not None:
            self._placement.computed(choice)
        choice.note_first_output(output)
        if output.ids:
            self._book.begin(active)
            choice.note_tokens(len(output.ids), now, gaps)
            choice.gaps = 0
            if choice.place is not None:
                choice.place.incarnation.productive = True
        if output.ids or output.finish is not None:
            self._journal.append(choice.id, output.ids, output.logprobs, output.finish)
        delta = choice.fold.feed(output.ids, output.logprobs, output.finish)
        if delta is not None:
            active.stream.push(delta)
        if choice.fold.finish_reason is not None:
            if output.finish is None:
                self._state.abort_attempt(choice)
            self._state.finish(choice, choice.fold.finish_reason)
        elif output.failure is not None:
            self._state.fail(active, InternalError(output.failure))
        elif output.refusal is not None:
            param = active.request.param_of(output.refusal)
            self._state.fail(active, InvalidRequest(output.refusal, param=param, code="cannot_continue"))
        else:
            self._state.passed(choice)
