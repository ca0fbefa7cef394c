"""The exception tree and OpenAI's error bodies. Everything a client is told of a failure is made here.

APIError                     status, type, code, param and headers of the answer
├── InvalidRequest           400  validation: names the field
│   ├── UnknownParameter     400  a field we do not know, with the nearest one that we do
│   ├── UnsupportedParameter 400  a field we know and do not support at this value
│   └── ContextLengthExceeded 400
├── InvalidAPIKey            401
├── NotFound                 404
│   └── ModelNotFound        404
├── MethodNotAllowed         405
├── RequestTimeout           408
├── TakenOver                409  another reader has the stream
├── Gone                     410  a stream that can no longer be resumed
├── PayloadTooLarge          413
├── UnsupportedMediaType     415
├── HeaderTooLarge           431
├── RateLimited              429  queue full; with Retry-After
│   └── ConcurrencyExceeded  429  as many requests of one key as it may have
├── InternalError            500
│   └── EngineCrash          500  the request brings the engine down; not to be sent again
├── Unavailable              503  starting, draining or without an engine; with Retry-After
└── NoRoom                   503  accepted for a longer context than the engine came back with; with Retry-After
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from observability.records import ErrorType


class APIError(Exception):
    """An answer to the client that is not a success. Subclasses fix status, type, code and metrics class."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    error_type: ClassVar[ErrorType] = "internal"
    """The bounded metrics label."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``, all four present: what every OpenAI SDK reads."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(APIError):
    status, type = 400, "invalid_request_error"
    error_type: ClassVar[ErrorType] = "validation"


class UnknownParameter(InvalidRequest):
    default_code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    default_code, error_type = "unsupported_parameter", "not_implemented"


class ContextLengthExceeded(InvalidRequest):
    default_code = "context_length_exceeded"


class InvalidAPIKey(APIError):
    status, type, default_code, error_type = 401, "authentication_error", "invalid_api_key", "validation"


class NotFound(APIError):
    status, type, default_code, error_type = 404, "invalid_request_error", "not_found", "not_found"


class ModelNotFound(NotFound):
    default_code = "model_not_found"


class MethodNotAllowed(APIError):
    status, type, default_code, error_type = 405, "invalid_request_error", "method_not_allowed", "validation"


class RequestTimeout(APIError):
    status, type, default_code, error_type = 408, "timeout_error", "request_timeout", "cancelled"


class TakenOver(APIError):
    status, type, default_code, error_type = 409, "invalid_request_error", "stream_taken_over", "cancelled"


class Gone(APIError):
    status, type, default_code, error_type = 410, "invalid_request_error", "stream_gone", "not_found"


class PayloadTooLarge(APIError):
    status, type, default_code, error_type = 413, "invalid_request_error", "payload_too_large", "validation"


class UnsupportedMediaType(APIError):
    status, type, default_code, error_type = 415, "invalid_request_error", "unsupported_media_type", "validation"


class HeaderTooLarge(APIError):
    status, type, default_code, error_type = 431, "invalid_request_error", "headers_too_large", "validation"


class InternalError(APIError):
    status, type, default_code, error_type = 500, "server_error", "internal_error", "internal"


class EngineCrash(InternalError):
    default_code = "engine_crash"

    def __init__(self, request_id: str) -> None:
        # Clients send a request again after a 500, and this one would do the same again.
        super().__init__(
            f"The request {request_id} was given up: the engine crashed each time it computed it, alone as well.",
            headers={"x-should-retry": "false"},
        )


class _RetryLater(APIError):
    error_type = "overload"

    def __init__(self, message: str, *, retry_after: float, param: str | None = None, code: str | None = None) -> None:
        """``retry_after`` in seconds. Clients honour up to 120 s and prefer the header in milliseconds."""
        seconds = min(max(retry_after, 0.001), 120.0)
        headers = {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
        super().__init__(message, param=param, code=code, headers=headers)


class RateLimited(_RetryLater):
    status, type, default_code = 429, "rate_limit_error", "rate_limit_exceeded"


class ConcurrencyExceeded(RateLimited):
    pass


class Unavailable(_RetryLater):
    status, type, default_code = 503, "server_error", "server_is_overloaded"


class NoRoom(_RetryLater):
    """Beside Unavailable, after which a durable stream waits for the next process: this one ends here."""

    status, type, default_code = 503, "server_error", "context_too_small"
