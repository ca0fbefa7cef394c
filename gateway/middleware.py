"""Pure ASGI middleware. None of it buffers a response, so streams pass through as they are sent.

From the outside in: ``RequestMiddleware`` (request id, headers, access log, last resort for errors),
``HeadMiddleware``, ``AccessMiddleware`` (API keys), ``BodyMiddleware`` (size and encoding of request bodies).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admission import Keys, Tenant
from gateway.errors import APIError, InternalError, NotFound, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from gateway.state import RequestContext
from observability.logging import log_context
from observability.trace_context import sampled

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("gateway.access")

OPENAI_VERSION = "2020-10-01"
CLIENT_CLOSED_REQUEST = 499
"""Logged where the client went away before it had an answer; never sent."""
_PROBES = frozenset({"/health", "/ready", "/metrics"})
Refused: TypeAlias = Callable[[RequestContext, APIError], None]
"""Hears of every request that a middleware turns away."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


async def send_error(send: Send, error: APIError) -> None:
    """Answer with an error in OpenAI's shape."""
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class RequestMiddleware:
    """Gives every request an id, every response its headers, and the access log a line."""

    def __init__(
        self,
        app: ASGIApp,
        clock: Callable[[], float] = time.monotonic,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """``leaving``: whether a response should be the last one on its connection."""
        self._app = app
        self._clock = clock
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        parent = sampled(headers.get("traceparent", ""))
        context = RequestContext(_request_id(headers), self._clock(), traceparent=parent)
        scope["penstock.context"] = context
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = context.request_id
                headers["openai-version"] = OPENAI_VERSION
                headers["openai-processing-ms"] = str(round((self._clock() - context.started) * 1000))
                for name, value in context.headers.items():
                    headers[name] = value
                if self._leaving():
                    headers["connection"] = "close"
            await send(message)

        with log_context(request_id=context.request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except ClientDisconnect:
                status = status or CLIENT_CLOSED_REQUEST
            except Exception as error:
                if not isinstance(error, APIError):
                    logger.exception("%s %s failed", scope["method"], scope["path"])
                if status:
                    raise
                await send_error(send_with_headers, error if isinstance(error, APIError) else _internal(context))
            finally:
                self._log(scope, context, status)

    def _log(self, scope: Scope, context: RequestContext, status: int) -> None:
        level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
        access_logger.log(
            level,
            "%s %s %d",
            scope["method"],
            scope["path"],
            status,
            extra={
                "tenant": context.tenant.name,
                "status": status,
                "duration": round(self._clock() - context.started, 4),
                **context.log,
            },
        )


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


def _internal(context: RequestContext) -> InternalError:
    return InternalError(f"The server failed to handle this request. Its id in the log is {context.request_id}.")


class HeadMiddleware:
    """Answers HEAD wherever GET is answered, with GET's headers and no body; but reading a stream takes it over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _is_under(scope["path"], "/v1/streams"):
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


class AccessMiddleware:
    """Lets holders of an API key into ``/v1``, and lets them alone POST; what else may be read is open.

    ``/admin`` is for holders of an admin key, which no API key is; where there are none, it is a 404.
    """

    def __init__(self, app: ASGIApp, keys: Keys, admin_keys: Keys, refused: Refused) -> None:
        self._app = app
        self._keys = keys
        self._admin_keys = admin_keys
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _needs_key(scope):
            context: RequestContext = scope["penstock.context"]
            try:
                key = self._keys_of(scope).authenticate(Headers(scope=scope).get("authorization"))
                context.tenant, context.key = key.tenant, key.sha256
            except APIError as error:
                context.tenant = Tenant("unknown")
                self._refused(context, error)
                await send_error(send, error)
                return
            with log_context(tenant=context.tenant.name):
                await self._app(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _keys_of(self, scope: Scope) -> Keys:
        if not _is_under(scope["path"], "/admin"):
            return self._keys
        if not self._admin_keys:
            raise NotFound("There are no admin routes: start the server with --admin-key.", code="unknown_url")
        return self._admin_keys


def _needs_key(scope: Scope) -> bool:
    path: str = scope["path"]
    return _is_under(path, "/v1") or _is_under(path, "/admin") or scope["method"] not in ("GET", "HEAD", "OPTIONS")


def _is_under(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


class BodyMiddleware:
    """Bounds request bodies while they are read, and refuses compressed ones, whose size would be a guess.

    Answers at once where the headers say enough; else raises ``APIError`` into whoever reads the body. A client that
    stops in the middle of its body is not waited for.
    """

    def __init__(self, app: ASGIApp, max_body_size: int, refused: Refused, patience: float = 30.0) -> None:
        """``patience``: seconds to wait for the next piece of a body."""
        self._app = app
        self._limit = max_body_size
        self._refused = refused
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(Headers(scope=scope))
        except APIError as error:
            self._refused(scope["penstock.context"], error)
            await send_error(send, error)
            return
        size, complete = 0, False

        async def receive_bounded() -> Message:
            nonlocal size, complete
            if complete:  # what comes now is the client's leaving
                return await receive()
            try:
                async with asyncio.timeout(self._patience):
                    message = await receive()
            except TimeoutError:
                text = f"The rest of the request body did not come within {self._patience:g} s."
                raise RequestTimeout(text, headers={"connection": "close"}) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._limit:
                raise self._too_large("more")
            return message

        await self._app(scope, receive_bounded, send)

    def _check(self, headers: Headers) -> None:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise UnsupportedMediaType(
                f"Content-Encoding '{encoding[:32]}' is not supported. Send the body uncompressed.",
                headers={"connection": "close"},
            )
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdecimal() and int(length[:20]) > self._limit:
            raise self._too_large(length[:20])

    def _too_large(self, size: str) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The request body may have at most {self._limit} bytes (--max-body-size), but has {size}.",
            headers={"connection": "close"},
        )
