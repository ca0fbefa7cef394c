"""The reader's side of a request: a cursor over its events that holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.completion.events import CallDelta, Completed, Delta, Event, PromptScored
from gateway.errors import APIError


class Output(Protocol):
    """Where the lifecycle, and nobody else, puts what becomes of a request. None of it ever waits for a reader."""

    def push(self, event: Event) -> None: ...

    def close(self) -> None:
        """After ``Completed``."""

    def fail(self, error: APIError) -> None:
        """The one terminal output of a request that fails."""


class Stream:
    """An async iterator of ``list[Event]``, all that is ready at once, for one reader.

    It ends after ``Completed``, or raises an ``APIError`` where the request fails (after what was ready before).
    Events wait here for a slow reader, at most one for each token of the request, and deltas of one choice that have
    waited are merged when they are read; the lifecycle never waits for a reader.

    One choice scores the prompt for all its siblings, which may be ahead of it: their deltas wait for the scores.
    """

    __slots__ = ("_cancel", "_ended", "_error", "_held", "_n", "_pending", "_unscored", "_waiter")

    def __init__(self, cancel: Callable[[], None], *, unscored: Iterable[int] = (), n: int = 1) -> None:
        """``unscored``: the prompts whose scores are to come. Each prompt has ``n`` choices."""
        self._cancel = cancel
        self._n = n
        self._unscored = set(unscored)
        self._held: list[Delta] = []
        """Of choices whose prompt is one of those."""
        self._pending: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: APIError | None = None

    def cancel(self) -> None:
        """Aborts what is not done yet; the engine hears of it at once. Idempotent."""
        self._cancel()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> list[Event]:
        await self.ready()
        if self._pending:
            events, self._pending = self._pending, []
            return merged(events) if len(events) > 1 else events
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def ready(self) -> None:
        """Waits until the next read returns or raises at once. May be cancelled without a loss."""
        while not self._pending and not self._ended:
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def push(self, event: Event) -> None:
        if self._unscored:
            self._push_in_order(event)
        else:
            self._pending.append(event)
        self._wake()

    def _push_in_order(self, event: Event) -> None:
        """What is held comes after its scores, or at the end of a request that was cancelled before there were any."""
        match event:
            case Delta() if event.index // self._n in self._unscored:
                self._held.append(event)
            case PromptScored():
                self._unscored.discard(event.prompt_index)
                self._pending.append(event)
                self._release(event.prompt_index)
            case Completed():
                self._pending += [*self._held, event]
            case _:
                self._pending.append(event)

    def _release(self, prompt_index: int) -> None:
        for delta in self._held:
            if delta.index // self._n == prompt_index:
                self._pending.append(delta)
        self._held = [delta for delta in self._held if delta.index // self._n != prompt_index]

    def close(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, error: APIError) -> None:
        self._error = error
        self.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merged(events: list[Event]) -> list[Event]:
    """The same events with the deltas of each choice joined into one, at the place of its first."""
    deltas: dict[int, list[Delta]] = {}
    order: list[Event | int] = []
    for event in events:
        if not isinstance(event, Delta):
            order.append(event)
        elif (earlier := deltas.get(event.index)) is not None:
            earlier.append(event)
        else:
            deltas[event.index] = [event]
            order.append(event.index)
    return [_joined(deltas[item]) if isinstance(item, int) else item for item in order]


def _joined(deltas: list[Delta]) -> Delta:
    last = deltas[-1]
    if len(deltas) == 1:
        return last
    return Delta(
        index=last.index,
        text="".join(delta.text for delta in deltas),
        tokens=[token for delta in deltas for token in delta.tokens],
        reasoning="".join(delta.reasoning for delta in deltas),
        calls=joined_calls(call for delta in deltas for call in delta.calls),
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        stop_tokens=last.stop_tokens,
        num_tokens=last.num_tokens,
    )


def joined_calls(calls: Iterable[CallDelta]) -> tuple[CallDelta, ...]:
    """One for each call, in order."""
    pieces: dict[int, list[CallDelta]] = {}
    for call in calls:
        pieces.setdefault(call.index, []).append(call)
    return tuple(
        CallDelta(index, first.id, first.name, "".join(piece.arguments for piece in (first, *more)))
        for index, (first, *more) in pieces.items()
    )
