"""``reasoning_effort`` → variables of the chat template, where it has such."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias

from gateway.errors import InvalidRequest, UnsupportedParameter

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

FIELD = "reasoning_effort"
SWITCHES = ("enable_thinking", "thinking")
"""Variables that templates switch reasoning on and off by."""


def with_effort(
    variables: Mapping[str, Any] | None,
    effort: Effort | None,
    *,
    readable: Collection[str],
    efforts: Collection[str] | None,
) -> dict[str, Any]:
    """``chat_template_kwargs`` with what the effort comes to.

    Args:
        readable: variables that the template reads.
        efforts: values that the model was trained on; None where that is not known, and the template judges.

    Raises:
        UnsupportedParameter: the template cannot be told this effort.
        InvalidRequest: ``chat_template_kwargs`` says something else.
    """
    given = dict(variables or {})
    if effort is None:
        return given
    if FIELD in readable:
        if efforts is not None and effort not in efforts:
            raise _unsupported(f"this model knows {', '.join(efforts)}")
        return _set(given, FIELD, effort)
    switches = [name for name in SWITCHES if name in readable]
    if not switches:
        raise _unsupported("the model's chat template does not steer reasoning")
    if effort != "none":
        raise _unsupported(f"the model's chat template only switches reasoning on and off, by {switches[0]}", "'none'")
    for name in switches:
        given = _set(given, name, False)
    return given


def _set(variables: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    if variables.get(name, value) != value:
        raise InvalidRequest(
            f"'{FIELD}' and 'chat_template_kwargs.{name}' differ. Set one of them.", param=FIELD, code="invalid_value"
        )
    return variables | {name: value}


def _unsupported(why: str, accepted: str = "") -> UnsupportedParameter:
    values = f" (accepted: null or {accepted})" if accepted else ""
    return UnsupportedParameter(f"This '{FIELD}' is not supported: {why}{values}.", param=FIELD)
