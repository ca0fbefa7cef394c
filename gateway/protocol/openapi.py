"""The OpenAPI document: request bodies that are read by hand, answers, and the errors of all routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from gateway.protocol.limits import LIMIT_OF, Limits
from gateway.protocol.responses import ErrorBody

_REF = "#/components/schemas/{model}"

_MEANINGS = {
    400: "The request is not valid; param names the field.",
    401: "No API key, or a wrong one.",
    404: "There is no such thing.",
    410: "It is gone: kept no longer.",
    413: "The body is too large.",
    415: "The body is not plain JSON.",
    429: "Too much at a time; see Retry-After.",
    500: "The server failed.",
    503: "No engine is up, or the server shuts down; see Retry-After.",
}

ANY_POST = (400, 401, 404, 413, 415, 429, 500, 503)
"""What every route may answer that takes a body and does something for it."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's ``responses``."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


def answers(body: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """``responses`` of an endpoint that answers at once or in a stream of ``chunk``."""
    success = {
        "model": body,
        "description": "The answer; a stream is `data:` lines, then `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": _reference(chunk)}},
    }
    return {200: success, **errors(*ANY_POST)}


def event_stream(chunk: type[BaseModel]) -> dict[str, Any]:
    """A response that is a stream of ``chunk``."""
    return {
        "description": "`data:` lines, then `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": _reference(chunk)}},
    }


def request_body(*schemas: type[BaseModel]) -> dict[str, Any]:
    """``openapi_extra`` of a route that validates its body itself: any one of ``schemas``."""
    references = [_reference(schema) for schema in schemas]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    """A reference that carries its definitions with it, for ``finish``."""
    schema = model.model_json_schema(ref_template=_REF)
    definitions = schema.pop("$defs", {}) | {model.__name__: schema}
    return {"$ref": _REF.format(model=model.__name__), "$defs": definitions}


def finish(document: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Put definitions where the document keeps its schemas, and say this server's limits and that errors are all alike.

    FastAPI's own error, which is never sent, is taken out.
    """
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for node in _objects(document.get("paths", {})):
        schemas.update(node.pop("$defs", {}))
        if "responses" in node:
            node["responses"].pop("422", None)
            node["responses"]["4XX"] = _ANY_ERROR
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for node in _objects(document):
        _say_limits(node, limits)
    return document


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    """Every object in it, each before those that it holds once the caller has changed it."""
    pending = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


_ANY_ERROR = {
    "description": "Any other request that is refused.",
    "content": {"application/json": {"schema": {"$ref": _REF.format(model=ErrorBody.__name__)}}},
}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _say_limits(schema: dict[str, Any], limits: Limits) -> None:
    """The value of each keyword whose limit is named; and integers as integers, which FastAPI has made decimal."""
    for key in [key for key in schema if key.startswith(LIMIT_OF)]:
        schema[key.removeprefix(LIMIT_OF)] = getattr(limits, schema.pop(key))
    for keyword in _BOUNDS:
        if isinstance(bound := schema.get(keyword), float) and bound.is_integer():
            schema[keyword] = int(bound)
