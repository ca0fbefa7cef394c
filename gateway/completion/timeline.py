"""What a trace tells of a request that has ended."""

from __future__ import annotations

from gateway.completion.choice import ActiveRequest
from gateway.errors import APIError
from observability.records import RequestTrace


def trace_of(active: ActiveRequest, now: float, error: APIError | None) -> RequestTrace:
    """Of a traced request whose choices run nowhere any more."""
    request, params = active.request, active.request.params[0]
    return RequestTrace(
        traceparent=request.traceparent,
        id=request.id,
        operation="chat" if request.id.startswith("chat") else "text_completion",
        tenant=request.tenant,
        submitted_at=active.submitted_at,
        ended_at=now,
        error_type=error.error_type if error is not None else None,
        finish_reasons=[choice.finish_reason or "error" for choice in active.choices],
        prompt_tokens=request.num_prompt_tokens,
        cached_tokens=active.cached_tokens,
        generated_tokens=active.generated_tokens,
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        attempts=[choice.attempts for choice in active.choices],
        prompts=list(request.prompts),
        outputs=[choice.emitted.ids for choice in active.choices],
    )
