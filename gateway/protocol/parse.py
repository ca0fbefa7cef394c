"""Bytes of a request body → a validated request, or an ``InvalidRequest`` that names the field."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import InvalidRequest, UnknownParameter, UnsupportedParameter
from gateway.protocol.base import UNKNOWN, UNSUPPORTED, WRONG_TYPE, FieldPolicy, RequestModel
from gateway.protocol.limits import Limits, shorten

Model = TypeVar("Model", bound=RequestModel)

TAG = "~"
"""Tags of union members begin with it; they are no part of a field's path."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

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


def decode_object(body: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object that a body is. Raises ``InvalidRequest``."""
    try:
        data = decode(body, limits)
    except NotAcceptedError as error:
        raise InvalidRequest(f"The request body {error}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest(f"The request body must be a JSON object, but is {json_type(data)}.", code="invalid_type")
    return data


def decode_text(text: str, param: str, limits: Limits) -> dict[str, Any]:
    """The JSON object that a member of the body holds as text. Raises ``InvalidRequest``."""
    try:
        data = decode(text.encode("utf-8", "surrogatepass"), limits)
    except NotAcceptedError as error:
        raise InvalidRequest(f"Invalid '{param}': {error}.", param=param, code="invalid_json") from None
    if not isinstance(data, dict):
        message = f"Invalid '{param}': must be a JSON object, as text, but is {json_type(data)}."
        raise InvalidRequest(message, param=param, code="invalid_json")
    return data


def validate(model: type[Model], data: dict[str, Any], limits: Limits) -> tuple[Model, list[str]]:
    """Of a body that was decoded. Returns and raises as ``parse`` does."""
    model.check_sizes(data, limits)
    policy = FieldPolicy(limits.unknown_fields)
    try:
        return model.model_validate(data, context=policy), list(policy.passed_over)
    except ValidationError as error:
        raise explain(error.errors(include_url=False)[0]) from None


def check_text(text: str, param: str, limits: Limits) -> None:
    """Of what may be JSON. Raises ``InvalidRequest`` where it is, and beyond the limits."""
    try:
        decode(text.encode("utf-8", "surrogatepass"), limits)
    except NoJsonError:
        pass
    except NotAcceptedError as error:
        raise InvalidRequest(f"Invalid '{param}': {error}.", param=param, code="invalid_json") from None


class NotAcceptedError(ValueError):
    """What is wrong with a JSON text, as the end of a sentence."""


class NoJsonError(NotAcceptedError):
    """It is none at all."""


def decode(text: bytes, limits: Limits) -> Any:
    """Strict JSON: UTF-8, no NaN or Infinity, no lone surrogates, within the limits. Raises ``NotAcceptedError``."""
    most, max_depth = limits.max_json_parts, limits.max_json_depth
    if _has_too_many_parts(text, most):
        raise NotAcceptedError(f"has more than {most} arrays, objects and members (--max-json-parts)")
    try:
        data = msgspec.json.decode(text)
        # Counting brackets is far cheaper than the walk, and nearly always enough.
        too_deep = text.count(b"[") + text.count(b"{") > max_depth and _deeper_than(data, max_depth)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoJsonError(f"is not valid JSON: {error}") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise NotAcceptedError(f"is nested more than {max_depth} levels deep (--max-json-depth)")
    return data


def _has_too_many_parts(text: bytes, most: int) -> bool:
    """Strings aside: those may be long, as may arrays of token ids."""
    return _parts_of(text) > most and _parts_of(_STRING.sub(b"", text)) > most


def _parts_of(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{") + text.count(b":")


def _deeper_than(data: Any, max_depth: int) -> bool:
    level = [data]
    for _ in range(max_depth + 1):
        level = [container for container in level if isinstance(container, dict | list)]
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
    return True


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


def path_of(loc: tuple[int | str, ...]) -> str | None:
    """``("messages", 0, "~user", "content")`` → ``messages[0].content``; None for the body as a whole."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith(TAG):
            path += f".{part[:64]}" if path else part[:64]
    return path or None


def json_type(value: Any) -> str:
    """What a JSON value is, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
