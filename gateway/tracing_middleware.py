"""The HTTP request's part of a trace; pure ASGI, like ``gateway.middleware``."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.state import RequestContext
from observability.logging import log_context
from observability.tracing import Tracing

_TRACED = ("/v1/", "/tokenize", "/detokenize", "/generation", "/admin")
"""Beginnings of paths: what probes and browsers ask for is no work."""


class TracingMiddleware:
    """Begins a span for each request to the API, and tells the routes and the client of it."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        context: RequestContext = scope["penstock.context"]
        span = self._tracing.http(scope["method"], scope["path"], Headers(scope=scope))
        context.traceparent = span.traceparent
        context.log["trace_id"] = span.trace_id
        status = 0

        async def send_with_trace(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["traceresponse"] = span.header
            await send(message)

        try:
            with log_context(trace_id=span.trace_id):
                await self._app(scope, receive, send_with_trace)
        finally:
            span.end(getattr(scope.get("route"), "path", ""), status, context.goes_on)
