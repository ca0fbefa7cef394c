"""Bytes of a request body → a validated request, or an ``InvalidRequest`` that names the field."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import InvalidRequest, UnknownParameter, UnsupportedParameter
from gateway.protocol.base import TOO_LONG, UNKNOWN, UNSUPPORTED, WRONG_TYPE, FieldPolicy, RequestModel
from gateway.protocol.json_body import decode_object, json_type
from gateway.protocol.json_place import Path, written
from gateway.protocol.limits import Limits, shorten

TAG = "~"
"""Tags of union members begin with it; they are no part of a field's path."""

Model = TypeVar("Model", bound=RequestModel)

_EXPECTED = {
    "bool_type": "a boolean",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "an array",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "string_type": "a string",
}


def parse(model: type[Model], body: bytes, limits: Limits) -> tuple[Model, list[str]]:
    """Validate a body. Returns the request and the names of unknown fields that the policy passed over.

    Raises:
        InvalidRequest: or a subclass, for anything that is not a valid request.
    """
    return validate(model, decode_object(body, limits), limits)


def validate(model: type[Model], data: dict[str, Any], limits: Limits) -> tuple[Model, list[str]]:
    """Of a body that was decoded. Returns and raises as ``parse`` does."""
    model.check_sizes(data, limits)
    policy = FieldPolicy(limits)
    try:
        return model.model_validate(data, context=policy), list(policy.passed_over)
    except ValidationError as error:
        raise explain(error.errors(include_url=False)[0]) from None


def explain(details: ErrorDetails) -> InvalidRequest:
    """One of pydantic's errors in OpenAI's words and with its codes."""
    kind, context = details["type"], details.get("ctx", {})
    # Validators of objects name the field that they mean.
    param = path_of((*details["loc"], context["field"]) if "field" in context else details["loc"])
    given = context.get("given", details["input"])
    if kind == UNKNOWN:
        return UnknownParameter(f"Unknown parameter: '{param}'.{details['msg']}", param=param)
    if kind == UNSUPPORTED:
        return UnsupportedParameter(f"'{param}' is not supported: {details['msg']}.", param=param)
    if kind == TOO_LONG:
        return InvalidRequest(f"Invalid '{param}': {details['msg']}.", param=param, code="string_above_max_length")
    if kind == "missing":
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if kind in _EXPECTED:
        message = f"Invalid type for '{param}': expected {_EXPECTED[kind]}, but got {json_type(given)} instead."
        return InvalidRequest(message, param=param, code="invalid_type")
    if kind == WRONG_TYPE:
        return InvalidRequest(
            f"Invalid type for '{param}': {details['msg']}, but got {json_type(given)} instead.",
            param=param,
            code="invalid_type",
        )
    text, code = _requirement(details)
    return InvalidRequest(f"Invalid '{param}': {text}, but got {shorten(given)}.", param=param, code=code)


def _requirement(details: ErrorDetails) -> tuple[str, str]:
    context, given = details.get("ctx", {}), details["input"]
    number = "integer" if isinstance(given, int) else "decimal"
    match details["type"]:
        case "greater_than_equal":
            return f"must be at least {context['ge']}", f"{number}_below_min_value"
        case "greater_than":
            return f"must be more than {context['gt']}", f"{number}_below_min_value"
        case "less_than_equal":
            return f"must be at most {context['le']}", f"{number}_above_max_value"
        case "less_than":
            return f"must be less than {context['lt']}", f"{number}_above_max_value"
        case "literal_error":
            return f"must be {context['expected']}", "invalid_value"
        case "too_short":
            return f"must have at least {context['min_length']} item(s)", "array_below_min_length"
        case "too_long":
            return f"must have at most {context['max_length']} items", "array_above_max_length"
        case "string_too_short":
            return "must not be empty", "string_below_min_length"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters", "string_above_max_length"
        case _:
            return str(details["msg"])[:200].rstrip("."), "invalid_value"


def path_of(loc: Path) -> str | None:
    """``("messages", 0, "~user", "content")`` → ``messages[0].content``; None for the body as a whole."""
    return written(tuple(part for part in loc if isinstance(part, int) or not part.startswith(TAG))) or None
