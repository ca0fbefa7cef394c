"""The sole owner of request state: ``Pending → Running(replica, epoch, attempt) → Done(reason)`` for each choice.

- Tokens count only if they are of the current attempt and continue exactly where the choice stands; a gap restarts
  the attempt. Then, in this order: append to the journal, fold, send.
- Only this module declares Done, and the first reason wins. The fold finds the end in the tokens themselves, so a
  choice whose last token or stop string has arrived is finished in that same turn: nothing that a loss interrupts
  could have been finished already, and finished siblings never restart.
- A loss takes Running back to Pending; a new attempt hands an engine what was emitted as ``output_prefix``, so a
  stream pauses and goes on, at once where another replica is up. A choice that keeps losing its engine without a
  token in between is given up.
- An accepted request ends with exactly one terminal output: ``Completed``, or an error.

A request's choices are sent in index order and their deltas go out as they arrive: routes announce all choices, in
order, before the first delta. Everything here runs in turns of one event loop, and nothing waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from engine.messages import Abort, CacheEvents, EngineInfo, Idle, Rejected, StepOutput, ToEngine, Tokens
from gateway.clock import Clock, SystemClock
from gateway.completion.choice import ActiveRequest, Choice, Incarnation
from gateway.completion.detokenizer import StopStrings
from gateway.completion.events import Completed, Delta, FinishReason, PromptScored
from gateway.completion.fold import Fold
from gateway.completion.journal import Journal, MemoryJournal
from gateway.completion.placement import Placement
from gateway.completion.request import Request
from gateway.completion.stream import Stream
from gateway.errors import APIError, InternalError, InvalidRequest, Unavailable
from gateway.replicas.router import Router
from gateway.tokenizer import Tokenizer
from observability.records import (
    CacheConfig,
    EngineEvent,
    EngineState,
    InterTokenLatencies,
    Record,
    Recorder,
    Replay,
    Routed,
)

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
        replay_limit: int = 3,
    ) -> None:
        """``replicas``: how many there are to be.

        ``replay_limit``: attempts that a choice may lose without a token in between before it is given up.
        """
        self._tokenizer = tokenizer
        self._record = record
        self._clock = clock or SystemClock()
        self._journal = MemoryJournal() if journal is None else journal
        self._placement = Placement(router or Router(), replicas)
        self._replay_limit = replay_limit
        self._requests: dict[str, ActiveRequest] = {}
        self._choices: dict[str, Choice] = {}
        """Those that are not done."""
        self._draining = False
        self._failure: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.queued_requests = 0
        """Accepted requests of which the engine has computed nothing yet, and below their prompt tokens."""
        self.queued_tokens = 0

    # --- what routes and admission ask -----------------------------------------------------------------------

    @property
    def running_requests(self) -> int:
        """Accepted requests that the engine has begun."""
        return len(self._requests) - self.queued_requests

    @property
    def ready(self) -> bool:
        """Whether new work is welcome."""
        return self._placement.open and not self._draining

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
        return self._draining

    @property
    def failure(self) -> str | None:
        """Why the engines are given up for good, or None while one is not."""
        return self._failure

    def submit(self, request: Request) -> Stream:
        """Accepts a request and sends its choices to an engine. Raises ``Unavailable`` where there is none."""
        if self._draining:
            raise Unavailable("The server is shutting down and takes no new requests.", retry_after=10)
        if self._failure is not None:
            raise Unavailable(f"The engine is gone: {self._failure}", retry_after=60)
        info = self.info
        if not self._placement.open or info is None:
            raise Unavailable("The engine is starting; try again shortly.", retry_after=2)
        active = ActiveRequest(request, self._clock.now())
        active.stream = Stream(lambda: self._cancel(active))
        self._requests[request.id] = active
        self._idle.clear()
        self.queued_requests += 1
        self.queued_tokens += request.num_prompt_tokens
        stops, eos_ids = StopStrings(request.stop), frozenset(info.eos_token_ids)
        shown = self._tokenizer.special_ids_of(request.parsing.markers) if request.parsing else frozenset()
        for index in range(request.num_choices):
            self._open(active, index, stops, eos_ids, shown)
        active.remaining = len(active.choices)
        for choice in active.choices:
            self._dispatch(choice)
        return active.stream

    def drain_replica(self, replica: int) -> None:
        """Nothing new is sent there until its engine is another one; what it has begun goes on."""
        self._placement.drain(replica)

    def drain(self) -> None:
        """A latch: no new requests, and accepted ones that no engine holds and of which nothing was sent end now.

        Streams that have begun go on to their end, across the loss of an engine too.
        """
        self._draining = True
        for choice in list(self._choices.values()):
            if choice.state == "pending" and not choice.request.emitted:
                self._fail(choice.request, Unavailable("The server is shutting down.", retry_after=10))

    async def wait_idle(self) -> None:
        """Until no request is left."""
        await self._idle.wait()

    def close(self) -> None:
        """Drains, and ends with an error whatever is not done: the last thing before the engines are stopped."""
        self.drain()
        self._fail_all(lambda: Unavailable("The server was shut down.", retry_after=10))

    # --- what supervisors report -----------------------------------------------------------------------------

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None:
        """An engine is ready; ``send`` never waits."""
        self._placement.up(replica, epoch, info, send)
        self._report(CacheConfig(block_size=info.block_size, num_blocks=info.num_blocks), replica)
        self._report(EngineEvent(kind="up", epoch=epoch), replica)
        self._dispatch_pending()

    def lost(self, replica: int, epoch: int, cause: str) -> None:
        """An engine process is dead, for certain, and everything it said before has been received."""
        incarnation = self._placement.find(replica, epoch)
        if incarnation is None:
            return
        self._placement.lost(incarnation)
        self._report(EngineEvent(kind="lost", epoch=epoch, cause=cause), replica)
        blocks_total = incarnation.info.num_blocks
        self._report(EngineState(running=0, waiting=0, blocks_used=0, blocks_total=blocks_total), replica)
        in_flight = list(incarnation.running.values())
        logger.warning("replica %d lost (%s) with %d choices in flight", replica, cause, len(in_flight))
        for choice in in_flight:
            self._placement.leave(choice)
        for choice in in_flight:
            if choice.state == "running":  # and not ended just now together with a sibling
                self._set_back(choice)
        self._dispatch_pending()

    def gave_up(self, replica: int, message: str) -> None:
        """The supervisor will not start this replica again."""
        self._placement.gave_up(replica)
        self._dispatch_pending()
        if self._placement.gone:
            self._failure = message
            self._fail_all(lambda: Unavailable(f"The engine is gone: {message}", retry_after=60))

    def receive(self, replica: int, epoch: int, message: StepOutput | CacheEvents | Idle | Rejected) -> None:
        incarnation = self._placement.find(replica, epoch)
        if incarnation is None:
            return
        if isinstance(message, StepOutput):
            self._receive_step(incarnation, message)
        elif isinstance(message, CacheEvents):
            self._placement.cache_changed(incarnation, message)
        elif isinstance(message, Idle):
            self._report(message.state, replica)
        elif (choice := self._current(incarnation, message.id, message.attempt)) is not None:
            self._fail(choice.request, InvalidRequest(message.message))

    # --- from tokens to events -------------------------------------------------------------------------------

    def _receive_step(self, incarnation: Incarnation, message: StepOutput) -> None:
        now = self._clock.now()
        gaps: list[float] = []
        for choice_id in message.started:
            if (started := incarnation.running.get(choice_id)) is not None:
                self._begin(started.request)
        for output in message.outputs:
            choice = self._current(incarnation, output.id, output.attempt)
            if choice is None:
                continue
            try:
                self._accept(choice, output, now, gaps)
            except Exception:  # a fault of ours in one choice must not reach the others of the step
                logger.exception("request %s failed", choice.request.request.id)
                self._fail(choice.request, InternalError("The server failed while it was reading this output."))
        if gaps:
            self._report(InterTokenLatencies(values=gaps))
        for stats in message.stats:
            self._report(stats, incarnation.replica)
        if message.stats:
            self._report(message.stats[-1].state, incarnation.replica)

    def _current(self, incarnation: Incarnation, choice_id: str, attempt: int) -> Choice | None:
        choice = incarnation.running.get(choice_id)
        return choice if choice is not None and choice.attempt == attempt else None

    def _accept(self, choice: Choice, output: Tokens, now: float, gaps: list[float]) -> None:
        if output.at != len(choice.emitted.ids):
            held = len(choice.emitted.ids)
            logger.warning("%s: tokens at %d where %d are held; starting again", choice.id, output.at, held)
            self._abort_attempt(choice)
            self._set_back(choice)
            if choice.state == "pending":
                self._dispatch(choice)
            return
        active = choice.request
        if output.stats is not None:
            self._placement.computed(choice)
        if output.stats is not None or output.prompt_logprobs is not None:
            self._note_first_output(choice, output)
        if output.ids:
            self._begin(active)
            choice.note_tokens(len(output.ids), now, gaps)
            self._journal.append(choice.id, output.ids, output.logprobs)
            choice.losses = 0
        delta = choice.fold.feed(output.ids, output.logprobs, output.finish)
        if delta is not None:
            active.stream.push(delta)
        if choice.fold.finish_reason is not None:
            if output.finish is None:
                self._abort_attempt(choice)
            self._finish(choice, choice.fold.finish_reason)

    def _note_first_output(self, choice: Choice, output: Tokens) -> None:
        """What comes with an attempt's first tokens; of a later attempt it is old news."""
        active = choice.request
        if output.stats is not None and choice.cached_tokens is None:
            choice.cached_tokens = output.stats.cached_tokens
            active.first_stats = active.first_stats or output.stats
        if output.prompt_logprobs is not None and choice.prompt_index not in active.scored_prompts:
            active.scored_prompts.add(choice.prompt_index)
            active.stream.push(PromptScored(choice.prompt_index, output.prompt_logprobs))

    # --- transitions -----------------------------------------------------------------------------------------

    def _open(
        self, active: ActiveRequest, index: int, stops: StopStrings, eos_ids: frozenset[int], shown: frozenset[int]
    ) -> None:
        request = active.request
        choice_id = f"{request.id}:{index}"
        fold = Fold(
            index,
            self._tokenizer,
            request.params[index // request.n],
            stops=stops,
            include_stop=request.include_stop_str_in_output,
            skip_special_tokens=request.skip_special_tokens,
            eos_ids=eos_ids,
            continues=request.continues_prompt,
            parser=request.parser(index),
            shown=shown,
        )
        choice = Choice(active, index, choice_id, self._journal.open(choice_id), fold)
        self._choices[choice_id] = choice
        active.choices.append(choice)

    def _dispatch_pending(self) -> None:
        for choice in list(self._choices.values()):
            if choice.state == "pending":
                self._dispatch(choice)

    def _dispatch(self, choice: Choice) -> None:
        """Pending → Running, where there is a replica to run on."""
        if self._draining and not choice.request.emitted:
            return self._fail(choice.request, Unavailable("The server is shutting down.", retry_after=10))
        route = self._placement.place(choice)
        if route is None or choice.place is None:
            return None
        choice.attempt += 1
        choice.state = "running"
        self._report(Routed(reason=route.reason), route.replica)
        if choice.attempt > 1:
            self._report(Replay(), route.replica)
        choice.place.incarnation.send(choice.start())
        return None

    def _set_back(self, choice: Choice) -> None:
        """Running → Pending, or the end of a request that keeps losing its engine."""
        self._placement.leave(choice)
        choice.state = "pending"
        choice.losses += 1
        if choice.losses > self._replay_limit:
            self._fail(
                choice.request,
                InternalError(f"The engine was lost {choice.losses} times without a token for this request."),
            )

    def _abort_attempt(self, choice: Choice) -> None:
        """Tells the engine to forget the attempt; its blocks are free before its next step."""
        if choice.place is not None:
            choice.place.incarnation.send(Abort(id=choice.id, attempt=choice.attempt))

    def _begin(self, active: ActiveRequest) -> None:
        if not active.begun:
            active.begun = True
            self.queued_requests -= 1
            self.queued_tokens -= active.request.num_prompt_tokens

    def _finish(self, choice: Choice, reason: FinishReason) -> None:
        """→ Done; with the last choice the request is complete."""
        self._retire(choice)
        choice.finish_reason = reason
        active = choice.request
        active.remaining -= 1
        if not active.remaining:
            active.stream.push(Completed(active.usage()))
            active.stream.close()
            self._forget(active, None)

    def _cancel(self, active: ActiveRequest) -> None:
        for choice in active.choices:
            if choice.state != "done":
                self._abort_attempt(choice)
                active.stream.push(Delta(index=choice.index, text="", tokens=[], finish_reason="abort"))
                self._finish(choice, "abort")

    def _fail(self, active: ActiveRequest, error: APIError) -> None:
        for choice in active.choices:
            if choice.state != "done":
                self._abort_attempt(choice)
                self._retire(choice)
        active.stream.fail(error)
        self._forget(active, error)

    def _fail_all(self, error: Callable[[], APIError]) -> None:
        for active in list(self._requests.values()):
            self._fail(active, error())

    def _retire(self, choice: Choice) -> None:
        self._placement.leave(choice)
        choice.state = "done"
        del self._choices[choice.id]
        self._journal.close(choice.id)

    def _report(self, record: Record, replica: int = 0) -> None:
        """Numbers are never worth a stream."""
        try:
            self._record(record, replica=str(replica))
        except Exception:
            logger.exception("a record could not be taken")

    def _forget(self, active: ActiveRequest, error: APIError | None) -> None:
        """The request has had its terminal output."""
        self._begin(active)
        del self._requests[active.request.id]
        if not self._requests:
            self._idle.set()
        self._report(active.stats(self._clock.now(), error))
