"""The strict base of every request schema: what is not a member is refused, accepted as a no-op, or reported."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limited, Limits, flag_of

UNKNOWN = "unknown_parameter"
UNSUPPORTED = "unsupported_parameter"
INVALID = "invalid_value"
WRONG_TYPE = "invalid_type"
TOO_LONG = "too_long_here"


@dataclass(slots=True)
class FieldPolicy:
    """What validation has to know, and, as it goes on, which unknown fields were passed over."""

    limits: Limits = field(default_factory=Limits)
    passed_over: dict[str, None] = field(default_factory=dict)
    """Their names in order, such as ``foo`` or ``messages[].foo``."""


def _describe_no_ops(schema: dict[str, Any], model: type[RequestModel]) -> None:
    properties = schema.setdefault("properties", {})
    for name, no_op in model.unsupported.items():
        values = {} if no_op.anything else {"enum": [None, *no_op.values]}
        properties[name] = {"title": name, "description": f"Not supported: {no_op.why}.", **values}
    schema.update(model.demands)


class RequestModel(BaseModel):
    """Strict: no value is converted to another JSON type, numbers are finite, members are all that is known."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_extra=_describe_no_ops,
    )

    unsupported: ClassVar[Mapping[str, NoOp]] = {}
    """Known fields that are accepted at their no-op value only."""
    demands: ClassVar[Mapping[str, Any]] = {}
    """JSON Schema of what ``check`` asks of several fields together, for the OpenAPI document."""
    prefix: ClassVar[str] = ""
    """Where in the body the object stands, to name its fields where an index would say too much."""

    @classmethod
    def check_sizes(cls, data: Mapping[str, Any], limits: Limits) -> None:
        """Of the JSON object, before anything is made of it. Raises ``InvalidRequest`` where a list is too long."""

    def check(self, limits: Limits) -> None:
        """What the schema alone cannot say. Raises ``InvalidRequest``."""

    @model_validator(mode="before")
    @classmethod
    def _members_only(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        members, known, integers = {}, cls._names(), cls._integers()
        for name, value in data.items():
            if name in known:
                members[name] = whole(value) if name in integers else value
            elif name in cls.unsupported:
                _check_no_op(name, value, cls.unsupported[name])
            else:
                cls._pass_over(name, info.context)
        return members

    @classmethod
    def _names(cls) -> set[str]:
        """Of the members, as they stand in JSON."""
        return {field.alias or name for name, field in cls.model_fields.items()}

    @classmethod
    def _integers(cls) -> frozenset[str]:
        """Names of those members that are integers, or lists of integers, and nothing else but null."""
        return _integers_of(cls)

    @classmethod
    def _pass_over(cls, name: str, policy: FieldPolicy | None) -> None:
        if policy is None or policy.limits.unknown_fields == "refuse":
            known = [*cls._names(), *cls.unsupported]
            # A name may be as long as the body; the comparison is quadratic.
            nearest = difflib.get_close_matches(name[:64], known, n=1)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            raise PydanticCustomError(UNKNOWN, "{hint}", {"field": name[:64], "hint": hint})
        policy.passed_over[cls.prefix + name[:64]] = None


@cache
def _integers_of(model: type[RequestModel]) -> frozenset[str]:
    return frozenset(
        field.alias or name
        for name, field in model.model_fields.items()
        if set(_leaves(field.annotation)) - {type(None)} == {int}
    )


def _leaves(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif origin in (Union, UnionType, list):
        for each in get_args(annotation):
            yield from _leaves(each)
    else:
        yield annotation


def whole(value: Any) -> Any:
    """5.0 as 5, which in JSON is the same number; in a list of numbers, each."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and float in set(map(type, value)):
        return [whole(each) for each in value]
    return value


class Longest(Limited):
    """An annotation of a text: it has no more characters than that member of ``Limits`` says."""

    def __init__(self, limit: str) -> None:
        super().__init__("maxLength", limit)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def _check(self, text: str, info: ValidationInfo) -> str:
        limits: Limits = (info.context or FieldPolicy()).limits
        if len(text) > (most := getattr(limits, self.limit)):
            context = {"most": most, "flag": flag_of(self.limit), "length": len(text)}
            raise PydanticCustomError(
                TOO_LONG, "at most {most} characters are allowed here ({flag}), but got {length}", context
            )
        return text


def _check_no_op(name: str, value: Any, no_op: NoOp) -> None:
    if no_op.accepts(value):
        return
    raise unsupported(name, f"{no_op.why} (accepted: {no_op.accepted})")


def unsupported(field: str, why: str) -> PydanticCustomError:
    """For validators of objects: a known field of theirs has a value that is not supported."""
    # Braces in the text would be taken for placeholders, so it travels as context.
    return PydanticCustomError(UNSUPPORTED, "{why}", {"field": field, "why": why})


def wrong_field(field: str | int, given: Any, requirement: str) -> PydanticCustomError:
    """For validators of objects: a field of theirs has a wrong value."""
    return PydanticCustomError(INVALID, "{requirement}", {"field": field, "given": given, "requirement": requirement})


def wrong_item(at: int, given: Any, expected: str) -> PydanticCustomError:
    """For validators of arrays: an item of theirs has a wrong type."""
    return PydanticCustomError(WRONG_TYPE, "expected {expected}", {"field": at, "given": given, "expected": expected})


def kind_of(kinds: Mapping[type, str]) -> Callable[[Any], str | None]:
    """A discriminator by exact JSON type, for unions such as "a string or an array"."""

    def discriminate(value: Any) -> str | None:
        return kinds.get(type(value))

    return discriminate
