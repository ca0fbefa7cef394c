"""The state machine of choices: ``Pending → Running(replica, epoch, attempt) → Done(reason)``, and nothing else.

``Lifecycle`` says when a choice changes its state; what a change takes with it in placement, journal, book and
suspects is done here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from engine.messages import Abort
from gateway.completion.book import Book
from gateway.completion.choice import ActiveRequest, Choice, Incarnation
from gateway.completion.events import Completed, Delta, FinishReason
from gateway.completion.journal import Journal
from gateway.completion.opening import open_choices
from gateway.completion.placement import Placement
from gateway.completion.suspects import Suspects
from gateway.errors import APIError, EngineCrash, InternalError, Unavailable
from gateway.replicas.loss import Loss
from gateway.tokenizer import Tokenizer
from observability.records import Conviction, Replay, Routed

logger = logging.getLogger(__name__)

GAPS = 3
"""Attempts of a choice that may end by tokens that do not continue it, without one in between that does."""


class Transitions:
    """Called by the lifecycle alone."""

    def __init__(self, tokenizer: Tokenizer, book: Book, journal: Journal, placement: Placement) -> None:
        self._tokenizer = tokenizer
        self._book = book
        self._journal = journal
        self._placement = placement
        self.suspects = Suspects()
        self.choices: dict[str, Choice] = {}
        """Those that are not done."""
        self.draining = False
        """Whether a request of which nothing was sent ends where it would be dispatched."""
        self.failure: str | None = None
        """Why the engines are given up for good, or None while one is not."""
        self._news_of_suspects = False
        """Whether there is one less, or more room for one, than when choices were last dispatched."""

    # --- Pending -----------------------------------------------------------------------------------------------

    def enter(self, active: ActiveRequest, eos_ids: Collection[int]) -> None:
        """An accepted request: its choices are Pending."""
        open_choices(active, self._tokenizer, self._journal, eos_ids)
        self._book.enter(active)
        self.choices |= {choice.id: choice for choice in active.choices}

    def set_back(self, choice: Choice) -> None:
        """Running → Pending."""
        self._placement.leave(choice)
        choice.state = "pending"

    def restart(self, choice: Choice) -> None:
        """After tokens that do not continue it: a new attempt, or the end of a request with which that keeps on."""
        self.abort_attempt(choice)
        self.set_back(choice)
        choice.gaps += 1
        if choice.gaps > GAPS:
            self.fail(choice.request, InternalError("The engine keeps answering this request out of order."))
        else:
            self.dispatch(choice)

    # --- Running -----------------------------------------------------------------------------------------------

    def dispatch(self, choice: Choice) -> None:
        """Pending → Running, where there is a replica to run on."""
        if self.draining and not choice.request.emitted:
            return self.fail(choice.request, Unavailable("The server is shutting down.", retry_after=10))
        if self.failure is not None:
            return self.fail(choice.request, gone(self.failure))
        route = self._placement.place(choice, self.suspects)
        if route is None or choice.place is None:
            return None
        choice.attempt += 1
        choice.held = len(choice.emitted.ids)
        choice.state = "running"
        self._book.report(Routed(reason=route.reason), route.replica)
        if choice.attempt > 1:
            self._book.report(Replay(), route.replica)
        choice.place.incarnation.send(choice.start(at_once=choice.id in self.suspects))
        return None

    def dispatch_pending(self) -> None:
        self._news_of_suspects = False
        for choice in list(self.choices.values()):
            if choice.state == "pending":
                self.dispatch(choice)

    def abort_attempt(self, choice: Choice) -> None:
        """Tells the engine to forget the attempt; its blocks are free before its next step."""
        if choice.place is not None:
            choice.place.incarnation.send(Abort(id=choice.id, attempt=choice.attempt))

    # --- Done --------------------------------------------------------------------------------------------------

    def finish(self, choice: Choice, reason: FinishReason) -> None:
        """→ Done; with the last choice the request is complete."""
        self._retire(choice)
        choice.finish_reason = reason
        active = choice.request
        active.remaining -= 1
        if not active.remaining:
            active.stream.push(Completed(active.usage()))
            active.stream.close()
            self._book.strike(active, None)

    def cancel(self, active: ActiveRequest) -> None:
        """Nobody wants the rest of it."""
        for choice in active.choices:
            if choice.state != "done":
                self.abort_attempt(choice)
                active.stream.push(Delta(index=choice.index, text="", tokens=[], finish_reason="abort"))
                self.finish(choice, "abort")
        self.after_suspects()

    def fail(self, active: ActiveRequest, error: APIError) -> None:
        for choice in active.choices:
            if choice.state != "done":
                self.abort_attempt(choice)
                self._retire(choice)
        active.stream.fail(error)
        self._book.strike(active, error)

    def fail_all(self, error: Callable[[], APIError]) -> None:
        for active in self._book:
            self.fail(active, error())

    def fail_parked(self) -> None:
        """Those that no engine holds and of which nothing was sent."""
        for choice in list(self.choices.values()):
            if choice.state == "pending" and not choice.request.emitted:
                self.fail(choice.request, Unavailable("The server is shutting down.", retry_after=10))

    def _retire(self, choice: Choice) -> None:
        if choice.place is not None and self.suspects.quarantines(choice.place.incarnation.replica):
            self._news_of_suspects = True
        self._placement.leave(choice)
        choice.state = "done"
        del self.choices[choice.id]
        self._journal.close(choice.id)
        if self.suspects.forget(choice.id):
            self._news_of_suspects = True

    # --- suspects ----------------------------------------------------------------------------------------------

    def take_down(self, incarnation: Incarnation, loss: Loss) -> None:
        """An engine is lost: what it had is Pending, and those that it is the last straw for are convicted."""
        in_flight, executing = list(incarnation.running.values()), loss.executing
        known = [self.choices[choice_id] for choice_id in executing or () if choice_id in self.choices]
        called_off = [choice for choice in known if choice.id not in incarnation.running]
        witnesses = [choice.witness(executing) for choice in in_flight]
        witnesses += [choice.witness(executing, called_off=True) for choice in called_off]
        for choice in in_flight:
            self.set_back(choice)
        convicted = self.suspects.lost(
            incarnation.replica,
            witnesses,
            productive=incarnation.productive,
            own_doing=loss.own_doing,
            known=executing is not None,
        )
        for choice_id in convicted:
            self.convict(choice_id, loss.cause)
        for choice in called_off:
            if choice.place is not None and choice.id in self.suspects:  # it runs elsewhere, and not alone
                self.abort_attempt(choice)
                self.set_back(choice)

    def convict(self, choice_id: str, cause: str) -> None:
        """It has crashed an engine alone, again and again at one position."""
        choice = self.choices.get(choice_id)
        if choice is None:  # convicted together with a sibling
            return
        request_id = choice.request.request.id
        logger.error("request %s is given up: it crashes the engine (%s)", request_id, cause)
        self._book.report(Conviction())
        self.fail(choice.request, EngineCrash(request_id))

    def passed(self, choice: Choice) -> None:
        """Tokens of it have arrived. If it has passed the position that it was suspected at, the next suspect is to be
        alone, too."""
        if not self.suspects.passed(choice.id, len(choice.emitted.ids)):
            return
        self._news_of_suspects = True
        if choice.place is not None and self.suspects.quarantines(choice.place.incarnation.replica):
            self.abort_attempt(choice)
            self.set_back(choice)

    def after_suspects(self) -> None:
        """Those who waited for a suspect may run now."""
        if self._news_of_suspects:
            self.dispatch_pending()


def gone(failure: str) -> Unavailable:
    return Unavailable(f"The engine is gone: {failure}", retry_after=60)
