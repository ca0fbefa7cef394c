"""``create_app``: routes, middleware and error bodies around explicit dependencies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from gateway import errors
from gateway.errors import APIError
from gateway.middleware import AccessMiddleware, BodyMiddleware, HeadMiddleware, RequestMiddleware
from gateway.protocol.openapi import finish
from gateway.protocol.parse import explain
from gateway.routes import routers
from gateway.state import AppState, RequestContext
from gateway.tracing_middleware import TracingMiddleware
from observability.records import Rejection

DESCRIPTION = """An LLM server with OpenAI's API.

Every field of a request is honoured or refused by name. A field that is known and not supported is accepted where it
would change nothing. Errors have one shape: `{"error": {"message", "type", "param", "code"}}`.
"""


class _Application(FastAPI):
    """FastAPI with our OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        return finish(super().openapi(), self.state.penstock.limits)


def create_app(state: AppState) -> FastAPI:
    """The application. Routes are the modules of ``gateway.routes``, found by a scan."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        state.prompts.close()
        await state.trials.close()

    app = _Application(
        title="Penstock",
        version=state.version,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A redirect would name http:// behind a proxy that speaks https, and few clients repeat a POST.
        redirect_slashes=False,
        middleware=_middleware(state),
        exception_handlers={
            APIError: _answer_api_error,
            RequestValidationError: _answer_validation_error,
            HTTPException: _answer_http_exception,
        },
    )
    app.state.penstock = state
    for router in routers():
        app.include_router(router)
    return app


def _middleware(state: AppState) -> Sequence[Middleware]:
    """From the outside in."""
    cors = [
        Middleware(
            CORSMiddleware,
            allow_origins=state.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    ]

    def refused(context: RequestContext, error: APIError) -> None:
        _record_rejection(state, context, error)

    return [
        *(cors if state.cors_origins else []),
        Middleware(RequestMiddleware, leaving=state.leaving),
        *([Middleware(TracingMiddleware, tracing=state.tracing)] if state.tracing is not None else []),
        Middleware(HeadMiddleware),
        Middleware(AccessMiddleware, keys=state.keys, admin_keys=state.admin_keys, refused=refused),
        Middleware(BodyMiddleware, max_body_size=state.limits.max_body_size, refused=refused),
    ]


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    context: RequestContext = request.scope["penstock.context"]
    if request.method == "POST" and not context.accepted:
        _record_rejection(request.app.state.penstock, context, error)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    """FastAPI's own validation, of paths and queries."""
    assert isinstance(error, RequestValidationError)
    details: ErrorDetails = error.errors()[0]
    # The first part of the location says path or query.
    details["loc"] = details["loc"][1:]
    return await _answer_api_error(request, explain(details))


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """What the router says: no such path, or another method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    where = f"{request.method} {request.url.path}"
    answer: APIError
    if error.status_code == 404:
        answer = errors.NotFound(f"Unknown request URL: {where}. The routes are listed at /docs.", code="unknown_url")
    elif error.status_code == 405:
        answer = errors.MethodNotAllowed(f"Not allowed: {where}. Allowed here: {headers.get('Allow', 'none')}.")
    elif error.status_code < 500:
        answer = errors.InvalidRequest(str(error.detail))
    else:
        answer = errors.InternalError(str(error.detail))
    answer.headers |= headers
    return await _answer_api_error(request, answer)


def _record_rejection(state: AppState, context: RequestContext, error: APIError) -> None:
    state.record(Rejection(tenant=context.tenant.name, error_type=error.error_type, reason=rejection_reason(error)))


_REASONS: dict[type[APIError], str] = {
    errors.ConcurrencyExceeded: "concurrency",
    errors.RateLimited: "queue_full",
    errors.UnknownParameter: "unknown_field",
    errors.UnsupportedParameter: "unsupported_field",
    errors.ContextLengthExceeded: "context_length",
    errors.InvalidAPIKey: "auth",
    errors.PayloadTooLarge: "body_size",
    errors.RequestTimeout: "timeout",
    errors.Gone: "gone",
    errors.NotFound: "not_found",
    errors.Unavailable: "unavailable",
    errors.InternalError: "internal",
}


def rejection_reason(error: APIError) -> str:
    """A short word of a fixed set, for the metrics; more special classes come first in the table."""
    return next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), "invalid_request")
