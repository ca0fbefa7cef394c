"""``reasoning_effort`` → variables of the chat template, where it has such; ``thinking_token_budget`` → a limit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeAlias, get_args

from engine.sampling_params import ReasoningLimit
from gateway.completion.formats import reasoning_formats
from gateway.completion.parser import Parsing
from gateway.errors import InvalidRequest, UnsupportedParameter

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

FIELD, BUDGET = "reasoning_effort", "thinking_token_budget"
SWITCHES = ("enable_thinking", "thinking")
"""Variables that templates switch reasoning on and off by."""


def known_efforts(readable: Collection[str], efforts: Collection[str] | None) -> list[str]:
    """Values of ``reasoning_effort`` that ``with_effort`` takes for this model, as far as can be known."""
    if FIELD in readable:
        return list(get_args(Effort) if efforts is None else efforts)
    return ["none"] if any(name in readable for name in SWITCHES) else []


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


def limit_of(
    budget: int | None, parsing: Parsing | None, token_of: Callable[[str], int | None]
) -> ReasoningLimit | None:
    """What the engine is told of ``thinking_token_budget``; ``token_of`` gives the token that a marker is, if any.

    Raises ``UnsupportedParameter`` where the model's reasoning has no markers that are tokens.
    """
    if budget is None:
        return None
    name = parsing.reasoning_format if parsing is not None else None
    if parsing is None or name is None:
        why = "it is not known how this model sets its reasoning apart (--reasoning-format)"
        raise UnsupportedParameter(f"'{BUDGET}' is not supported: {why}.", param=BUDGET)
    found = reasoning_formats()[name]
    end = token_of(found.end)
    begin = None if parsing.in_reasoning else token_of(found.begin)
    if end is None or (begin is None and not parsing.in_reasoning):
        why = "the model's reasoning does not begin and end with tokens of their own"
        raise UnsupportedParameter(f"'{BUDGET}' is not supported: {why}.", param=BUDGET)
    return ReasoningLimit(budget, end, begin)


def _set(variables: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    if variables.get(name, value) != value:
        raise InvalidRequest(
            f"'{FIELD}' and 'chat_template_kwargs.{name}' differ. Set one of them.", param=FIELD, code="invalid_value"
        )
    return variables | {name: value}


def _unsupported(why: str, accepted: str = "") -> UnsupportedParameter:
    values = f" (accepted: null or {accepted})" if accepted else ""
    return UnsupportedParameter(f"This '{FIELD}' is not supported: {why}{values}.", param=FIELD)
