"""The caps on what one request may ask for, checked before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.errors import InvalidRequest

UnknownFields = Literal["refuse", "warn", "ignore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Made from the settings of ``serve``; the last two are fixed."""

    max_body_size: int = 8 * 2**20
    """Bytes."""
    max_n: int = 16
    max_prompts: int = 64
    max_logprobs: int = 20
    max_stop: int = 16
    """Stop strings, and stop token ids."""
    max_logit_bias: int = 1024
    """Entries; also of ``allowed_token_ids`` and ``bad_words``."""
    max_tools: int = 128
    max_tool_schema: int = 65_536
    """Bytes of JSON, of one tool's parameters."""
    max_grammar_size: int = 65_536
    """Characters of a schema, regular expression or grammar."""
    max_schema_depth: int = 24
    max_choices: int = 1024
    unknown_fields: UnknownFields = "refuse"
    max_stop_length: int = 256
    """Characters of one stop string: each is searched for in every piece of text."""
    max_json_depth: int = 32


def at_most(value: int | None, limit: int, param: str) -> None:
    """Raises ``InvalidRequest`` naming the field, its value and the limit."""
    if value is not None and value > limit:
        raise InvalidRequest(
            f"Invalid '{param}': at most {limit} is allowed here, but got {shorten(value)}.",
            param=param,
            code="integer_above_max_value",
        )


def at_most_items(value: object, limit: int, param: str, what: str) -> None:
    """Raises ``InvalidRequest`` naming the field, its length and the limit, where ``value`` is an array or object."""
    if isinstance(value, list | dict) and len(value) > limit:
        raise InvalidRequest(
            f"Invalid '{param}': at most {limit} {what} are allowed here, but got {len(value)}.",
            param=param,
            code="array_above_max_length",
        )


def shorten(value: object, length: int = 40) -> str:
    """A value for a message: as JSON, cut so that no message repeats a long input."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 128:
            return "an integer of more than 128 bits"
        case str():
            return f"'{value[:length]}…'" if len(value) > length else f"'{value}'"
        case list():
            return f"an array of {len(value)} item(s)"
        case dict():
            return "an object"
        case _:
            return str(value)
