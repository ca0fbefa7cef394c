"""A submitted request → its HTTP response, streamed or whole; a client that goes away cancels it at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from fastapi import Request, Response

from gateway.completion.events import Event, PromptScored
from gateway.completion.sse import EventStreamResponse, first_events, run_until_disconnect
from gateway.protocol.answer import BodyAnswer, StreamAnswer
from gateway.state import EventStream

MANY_SCORES = 1000
"""A body with log-probabilities for more tokens is made off the event loop: twenty likeliest for each of them take
some 25 µs a token, and nobody else's stream should wait."""


async def whole(request: Request, stream: EventStream, answer: BodyAnswer) -> Response:
    """Collect everything, then answer.

    Raises:
        APIError: the request failed.
        ClientDisconnect: nobody waits for the answer any more.
    """

    async def collect() -> None:
        async for events in stream:
            answer.feed(events)

    await run_until_disconnect(request, collect(), on_disconnect=stream.cancel)
    body = answer.body() if answer.num_scores <= MANY_SCORES else await asyncio.to_thread(answer.body)
    return Response(body, media_type="application/json")


async def streamed(
    request: Request,
    stream: EventStream,
    answer: StreamAnswer,
    *,
    keep_alive: float,
    abandon: Callable[[], None],
    ended: Callable[[], None],
    headers: dict[str, str] | None = None,
) -> Response:
    """Answer with server-sent events.

    ``abandon`` is called where nothing comes of the response, ``ended`` when it has ended, however it did.

    Raises:
        APIError: the request failed before anything was sent.
        ClientDisconnect: nobody waits for the answer any more.
    """
    first = await run_until_disconnect(request, first_events(stream), on_disconnect=abandon)

    async def frames() -> AsyncIterator[bytes]:
        # What arrives together is sent together.
        if frame := answer.opening() + await _fed(answer, first):
            yield frame
        async for events in stream:
            if frame := await _fed(answer, events):
                yield frame

    def end() -> None:
        stream.cancel()
        ended()

    return EventStreamResponse(frames(), on_end=end, headers=headers, keep_alive=keep_alive)


async def _fed(answer: StreamAnswer, events: list[Event]) -> bytes:
    scores = sum(len(event.logprobs) for event in events if isinstance(event, PromptScored))
    return answer.feed(events) if scores <= MANY_SCORES else await asyncio.to_thread(answer.feed, events)
