"""The OpenAPI document: request bodies that are read by hand, answers, and the errors of all routes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from gateway.protocol.base import RequestModel
from gateway.protocol.responses import ErrorBody

_REF = "#/components/schemas/{model}"

_MEANINGS = {
    400: "The request is not valid; param names the field.",
    401: "No API key, or a wrong one.",
    404: "There is no such model.",
    413: "The body is too large.",
    415: "The body is not plain JSON.",
    429: "Too much at a time; see Retry-After.",
    500: "The server failed.",
    503: "No engine is up, or the server shuts down; see Retry-After.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's ``responses``."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


def answers(body: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """``responses`` of an endpoint that answers at once or in a stream of ``chunk``."""
    events = {
        "schema": chunk.model_json_schema(ref_template=_REF),
    }
    success = {
        "model": body,
        "description": "The answer; a stream is `data:` lines, then `data: [DONE]`.",
        "content": {"text/event-stream": events},
    }
    return {200: success, **errors(*_MEANINGS)}


def request_body(schema: type[RequestModel]) -> dict[str, Any]:
    """``openapi_extra`` of a route that validates its body itself."""
    content = {"application/json": {"schema": schema.model_json_schema(ref_template=_REF)}}
    return {"requestBody": {"required": True, "content": content}}


def gather_definitions(document: dict[str, Any]) -> dict[str, Any]:
    """Move the ``$defs`` of schemas that were written out in place to where the document keeps its schemas."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    pending: list[Any] = [document.get("paths", {})]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            schemas.update(node.pop("$defs", {}))
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return document
