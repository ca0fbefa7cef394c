"""The caps on what one request may ask for, checked before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gateway.errors import InvalidRequest

UnknownFields = Literal["refuse", "warn", "ignore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Made from the settings of ``serve``, which have the same names and defaults."""

    max_body_size: int = 8 * 2**20
    """Bytes."""
    max_json_depth: int = 64
    """Levels, of a body and of the arguments of a tool call."""
    max_json_parts: int = 100_000
    """Arrays, objects and members of objects in these: millions of tiny ones would take seconds."""
    max_messages: int = 16_384
    max_name_length: int = 256
    """Characters of the name of a participant or of a called function, and of a call's id."""
    max_label_length: int = 512
    """Characters of what a request is labelled with: of ``user``, ``session_id``, a value of ``metadata`` and so on."""
    max_metadata: int = 16
    """Pairs."""
    max_metadata_name_length: int = 64
    """Characters."""
    max_generation_tokens: int = 256
    """Of ``max_tokens`` on the route ``/generation``, which has had this bound from the first."""
    max_tokenize_length: int = 2**20
    """Characters of a text, or of the prompt that messages become, that is only tokenized."""
    max_message_items: int = 1024
    """Parts of one message's content; tool calls of one message."""
    max_n: int = 16
    max_prompts: int = 64
    max_sequences: int = 256
    """Choices of all prompts of a request together."""
    max_resume_choices: int = 64
    """The same of a stream that may be resumed: every event has an id, which has a part for each."""
    max_logprobs: int = 20
    max_stop: int = 16
    """Stop strings, and stop token ids."""
    max_stop_length: int = 256
    """Characters of one stop string: each is searched for in every piece of text. Also of a bad word."""
    max_logit_bias: int = 1024
    """Entries; also of ``allowed_token_ids`` and ``bad_words``."""
    max_tools: int = 128
    max_tool_schema: int = 65_536
    """Bytes of JSON, of one tool's parameters."""
    max_grammar_size: int = 65_536
    """Characters of a schema, regular expression or grammar."""
    max_tool_grammar: int = 524_288
    """The same of the grammar that all tools make together."""
    max_schema_depth: int = 24
    max_choices: int = 1024
    max_structures: int = 128
    """Of a structural tag; also triggers."""
    unknown_fields: UnknownFields = "refuse"


@dataclass(frozen=True, slots=True)
class Limited:
    """An annotation: in the OpenAPI document this keyword has the value of that member of ``Limits``."""

    keyword: str
    limit: str

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core)
        # The document is finished by a server that knows its limits.
        return schema | {f"{LIMIT_OF}{self.keyword}": self.limit}


LIMIT_OF = "x-limit-of-"
"""Begins the key, in an unfinished document, under which a keyword's limit is named."""


def flag_of(limit: str) -> str:
    """The flag that sets a member of ``Limits``."""
    return "--" + limit.replace("_", "-")


def at_most(value: int | None, limits: Limits, limit: str, param: str) -> None:
    """Raises ``InvalidRequest`` naming the field, its value and the limit, a member of ``Limits``, with its flag."""
    most = getattr(limits, limit)
    if value is not None and value > most:
        raise InvalidRequest(
            f"Invalid '{param}': at most {most} is allowed here ({flag_of(limit)}), but got {shorten(value)}.",
            param=param,
            code="integer_above_max_value",
        )


def at_most_items(value: object, limits: Limits, limit: str, param: str, what: str) -> None:
    """The same of the length of ``value``, where it is an array or object of ``what``."""
    most = getattr(limits, limit)
    if isinstance(value, list | dict) and len(value) > most:
        raise InvalidRequest(
            f"Invalid '{param}': at most {most} {what} are allowed here ({flag_of(limit)}), but got {len(value)}.",
            param=param,
            code="array_above_max_length",
        )


def at_most_long(text: str | bytes, limits: Limits, limit: str, param: str) -> None:
    """The same of the length of a text in characters, or of JSON in bytes."""
    at_most_length(len(text), "characters" if isinstance(text, str) else "bytes of JSON", limits, limit, param)


def at_most_length(length: int, unit: str, limits: Limits, limit: str, param: str) -> None:
    """The same of a length in some unit."""
    most = getattr(limits, limit)
    if length > most:
        raise InvalidRequest(
            f"Invalid '{param}': at most {most} {unit} are allowed here ({flag_of(limit)}), but got {length}.",
            param=param,
            code="string_above_max_length",
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
