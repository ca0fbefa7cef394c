"""The body of a request: bytes → what its schema says, checked against the limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from fastapi import Request

from gateway.errors import UnsupportedMediaType
from gateway.protocol.base import RequestModel
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.limits import Limits
from gateway.protocol.token_requests import TokenizeChatRequest
from gateway.state import AppState, RequestContext
from observability.records import IgnoredFields

LARGE_BODY = 2**16
"""Bytes. Larger ones are parsed and checked off the event loop: thousands of small messages take their time, and so do
the arguments of a tool call."""

MOST_NAMED, LONGEST_HEADER = 16, 1024
"""Of the names of ignored fields in a response's header, the latter in characters."""

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
    unread = await _unread(body, state)
    if count := len(passed_over) + len(unread):
        state.record(IgnoredFields(tenant=context.tenant.name, count=count))
    if shown := [*(passed_over if state.limits.unknown_fields == "warn" else ()), *unread]:
        context.headers["x-penstock-ignored-fields"] = header_of(shown)
    return body


async def _unread(body: RequestModel, state: AppState) -> list[str]:
    """Members of messages that the model's chat template does not show, such as ``messages[].name``."""
    chat = body.chat if isinstance(body, TokenizeChatRequest) else body
    template = state.prompts.template
    if not isinstance(chat, ChatCompletionRequest) or template is None or not (extras := chat.extras()):
        return []
    template = template.for_tools if chat.offered_tools else template
    # Off the event loop: the first time, the template is tried.
    unread = await state.prompts.run(lambda: [member for role, member in extras if not template.shows(role, member)])
    return sorted({f"messages[].{member}" for member in unread})


def header_of(names: Sequence[str]) -> str:
    """The names, and how many more there are than it has room for."""
    shown, length = [], 0
    for name in names[:MOST_NAMED]:
        quoted = quote(name, safe="[]._-")
        if (length := length + len(quoted) + 2) > LONGEST_HEADER:
            break
        shown.append(quoted)
    more = len(names) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more else shown)
