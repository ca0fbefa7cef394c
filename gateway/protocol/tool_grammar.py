"""``tool_choice`` and ``strict`` → the grammar that enforces them, and room for reasoning before any other grammar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.grammar import json_rule, regex_rule
from engine.grammar_trial_messages import Trial
from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.completion.formats.base import CallSyntax
from gateway.completion.parser import Parsing
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.grammars.json_schema import ANNOTATIONS, check_schema
from gateway.grammars.tool_calls import (
    Function,
    Reasoning,
    Spelling,
    calls_grammar,
    reasoning_before,
    text_and_calls_grammar,
)
from gateway.protocol.constrained import Wanted
from gateway.protocol.limits import Limits
from gateway.protocol.tools import NamedChoice, Tool

ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def wanted_calls(
    tools: Sequence[Tool],
    choice: str | NamedChoice | None,
    parsing: Parsing | None,
    *,
    template: str,
    token_of: Callable[[str], int | None],
    limits: Limits,
) -> Wanted | None:
    """What has to be enforced of the calls, None where nothing has to.

    Args:
        template: the chat template that shows the tools.
        token_of: text → the special token that it is.

    Raises:
        UnsupportedParameter: calls of the model's format, or in this way, cannot be enforced.
        InvalidRequest: a strict schema has a keyword that cannot be enforced.
    """
    strict = next((at for at, tool in enumerate(tools) if tool.function.strict), None)
    has_to_call = choice == "required" or isinstance(choice, NamedChoice)
    if not tools or parsing is None or parsing.tool_format is None or (strict is None and not has_to_call):
        return None
    param = "tool_choice" if has_to_call else f"tools[{strict}].function.strict"
    syntax = _syntax(parsing.tool_format, template, param, after_text=not has_to_call)
    reasoning = _reasoning(parsing, param)
    spelling = Spelling(parsing.markers, token_of)
    functions = [
        Function(tool.function.name, _schema(tool, f"tools[{at}].function.parameters", limits))
        for at, tool in enumerate(tools)
        if not isinstance(choice, NamedChoice) or tool.function.name == choice.function.name
    ]
    if has_to_call:
        single = isinstance(choice, NamedChoice) or parsing.single_call
        source = calls_grammar(syntax, functions, spelling, single=single, reasoning=reasoning)
    else:
        source = text_and_calls_grammar(syntax, functions, spelling, reasoning=reasoning)
    if len(source) > limits.max_grammar_size:
        raise InvalidRequest(
            f"Invalid 'tools': their schemas come to a grammar of {len(source)} characters, and at most "
            f"{limits.max_grammar_size} are allowed here (--max-grammar-size).",
            param="tools",
            code="string_above_max_length",
        )
    return Wanted(param, Trial(kind="lark", source=source))


def after_reasoning(wanted: Wanted, parsing: Parsing | None, token_of: Callable[[str], int | None]) -> Wanted:
    """The same with room for the model's reasoning before the answer.

    Raises ``InvalidRequest`` where the prompt has begun it and no room can be made.
    """
    if parsing is None or parsing.reasoning_format is None:
        return wanted
    trial = wanted.trial
    if reasoning_formats()[parsing.reasoning_format].end and trial.kind in ("json_schema", "regex"):
        is_schema = trial.kind == "json_schema"
        answer = json_rule(msgspec.json.decode(trial.source)) if is_schema else regex_rule(trial.source)
        before = reasoning_before(_reasoning(parsing, wanted.param), Spelling(parsing.markers, token_of))
        return Wanted(
            wanted.param, Trial(kind="lark", source=f"start: {before.use} answer\nanswer: {answer}\n{before.rules}")
        )
    if parsing.in_reasoning:
        raise InvalidRequest(
            f"Invalid '{wanted.param}': the prompt begins the model's reasoning, which it leaves no room for. Where "
            "the model can do without, say so in 'chat_template_kwargs'.",
            param=wanted.param,
            code="invalid_value",
        )
    return wanted


def _syntax(name: str, template: str, param: str, *, after_text: bool) -> CallSyntax:
    syntax = tool_formats()[name].syntax(template)
    if syntax is None:
        raise _unsupported(param, f"calls in the model's format, {name}, cannot be enforced yet")
    if after_text and not syntax.trigger:
        raise _unsupported(
            param, f"nothing marks a call in the model's format, {name}; it can be enforced with 'tool_choice' only"
        )
    return syntax


def _reasoning(parsing: Parsing, param: str) -> Reasoning | None:
    if parsing.reasoning_format is None:
        return None
    found = reasoning_formats()[parsing.reasoning_format]
    if not found.end:
        raise _unsupported(param, f"the model's reasoning, {parsing.reasoning_format}, has no markers to end by")
    return Reasoning(found, parsing.in_reasoning)


def _schema(tool: Tool, param: str, limits: Limits) -> dict[str, Any]:
    """Of the arguments. One that is not strict and cannot be enforced leaves any object."""
    parameters: dict[str, Any] | None = tool.function.parameters
    if not parameters or _declares_none(parameters):
        return NO_ARGUMENTS
    try:
        check_schema(parameters, param, limits.max_schema_depth)
    except InvalidRequest:
        if tool.function.strict:
            raise
        return ANY_ARGUMENTS
    return ANY_ARGUMENTS | parameters


def _declares_none(parameters: dict[str, Any]) -> bool:
    """Whether this is how clients write a function without parameters: an object of no properties, and nothing else.

    By the letter any object would do, and the model would make some up.
    """
    says = {key: value for key, value in parameters.items() if key not in ANNOTATIONS}
    return says in ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "required": []})


def _unsupported(param: str, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"'{param}' is not supported: {why}.", param=param)
