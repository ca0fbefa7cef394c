"""``/v1/streams/{id}``: go on reading a stream whose connection was lost (GET), or end it (DELETE)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from gateway.completion.recording import Recording
from gateway.errors import APIError, Gone, InvalidRequest, NotFound
from gateway.protocol.event_ids import EventIds, resume_mode
from gateway.protocol.form import Form
from gateway.protocol.openapi import errors, event_stream
from gateway.protocol.responses import ChatCompletionChunk
from gateway.respond import streamed
from gateway.state import Context, State
from observability.records import Resume, ResumeOutcome

router = APIRouter(tags=["Penstock"])


@router.get(
    "/v1/streams/{stream_id}",
    summary="Resume a stream",
    response_class=Response,
    responses={200: event_stream(ChatCompletionChunk), **errors(400, 401, 404, 410)},
)
async def resume_stream(
    request: Request,
    stream_id: str,
    state: State,
    context: Context,
    starting_after: Annotated[str | None, Query(description="Id of the last event that was seen.")] = None,
    last_event_id: Annotated[
        str | None, Header(description="The same, as browsers send it; it counts where both are given.")
    ] = None,
    x_penstock_resume: Annotated[
        str | None, Header(description="body or sse; left out, event ids stand where they stood before.")
    ] = None,
) -> Response:
    """What comes after an event of a stream that was asked for with `X-Penstock-Resume`; without an id, all of it."""
    try:
        recording = state.streams.find(stream_id, context.key)
        form = Form.decode(recording.head.form)
        form = replace(form, mode=resume_mode(x_penstock_resume) or form.mode)
        seen = _seen(recording, last_event_id, starting_after)
    except APIError as error:
        state.record(Resume(outcome=_OUTCOMES.get(type(error), "invalid")))
        raise
    state.record(Resume(outcome="resumed"))
    context.log |= {"stream_id": stream_id}
    context.goes_on = recording.request.traceparent
    reader = recording.read(seen.num_tokens)
    return await streamed(
        request,
        reader,
        form.answer(recording.request.prompts, state.prompts.tokenizer, seen),
        keep_alive=state.keep_alive,
        abandon=reader.cancel,
        ended=lambda: None,
        headers=form.headers(durable=recording.durable),
    )


@router.delete("/v1/streams/{stream_id}", summary="End a stream", status_code=204, responses=errors(401, 404, 410))
async def end_stream(stream_id: str, state: State, context: Context) -> None:
    """Abort what is not generated yet, and forget the rest: for a client that stops on purpose.

    A stream that may be resumed does not end with its connection.
    """
    state.streams.abandon(state.streams.find(stream_id, context.key))
    context.log |= {"stream_id": stream_id}


_OUTCOMES: dict[type[APIError], ResumeOutcome] = {NotFound: "not_found", Gone: "gone"}


def _seen(recording: Recording, last_event_id: str | None, starting_after: str | None) -> EventIds:
    """A browser that connects again repeats the URL, so its header is the newer. Raises ``InvalidRequest``."""
    text, param = (starting_after, "starting_after") if last_event_id is None else (last_event_id, "Last-Event-ID")
    num_choices = recording.request.num_choices
    if not text:
        return EventIds(num_choices)
    seen = EventIds.parse(text, num_choices, param)
    if not seen.over and not recording.reaches(seen.num_tokens):
        raise InvalidRequest(
            f"Invalid '{param}': this stream has no event '{text[:64]}'.", param=param, code="invalid_event_id"
        )
    return seen
