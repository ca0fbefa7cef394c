"""The body of a request: bytes → what its schema says, checked against the limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from fastapi import Request

from gateway.errors import UnsupportedMediaType
from gateway.protocol.base import RequestModel
from gateway.protocol.limits import Limits
from gateway.state import AppState, RequestContext
from observability.records import IgnoredFields

LARGE_BODY = 2**16
"""Bytes. Larger ones are parsed and checked off the event loop: thousands of small messages take their time, and so do
the arguments of a tool call."""

Body = TypeVar("Body", bound=RequestModel)
Parse: TypeAlias = Callable[[bytes, Limits], tuple[Body, list[str]]]
"""Gives the request, and the names of unknown fields that were passed over. Raises ``InvalidRequest``."""


async def read(request: Request) -> bytes:
    """The body. Raises ``UnsupportedMediaType`` where it is not said to be JSON."""
    # A page of another origin can send a form or plain text without asking first, but not this type.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("The body must be JSON: send the header 'Content-Type: application/json'.")
    return await request.body()


async def parsed(raw: bytes, parse: Parse[Body], state: AppState, context: RequestContext) -> Body:
    """A valid request within the limits. Raises ``InvalidRequest``."""

    def work() -> tuple[Body, list[str]]:
        body, passed_over = parse(raw, state.limits)
        body.check(state.limits)
        return body, passed_over

    body, passed_over = await state.prompts.run(work) if len(raw) > LARGE_BODY else work()
    if passed_over:
        state.record(IgnoredFields(tenant=context.tenant.name, count=len(passed_over)))
        if state.limits.unknown_fields == "warn":
            names = ", ".join(quote(name, safe="[]._-") for name in passed_over[:16])
            context.headers["x-penstock-ignored-fields"] = names[:1024]
    return body
