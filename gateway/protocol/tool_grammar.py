"""``tool_choice``, ``strict`` and a form of the answer beside tools → the grammar that enforces them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.grammar import Grammar
from engine.grammar_trial_messages import Trial
from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.completion.formats.base import CallSyntax
from gateway.completion.parser import Parsing
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.grammars.arguments import ANY_ARGUMENTS, arguments_rules, loose_schema
from gateway.grammars.closed_objects import close_objects
from gateway.grammars.json_schema import check_schema
from gateway.grammars.spelling import CannotSpellError, Spelling, TokenOf
from gateway.grammars.tool_calls import CallGrammars, Function, Reasoning, around_answer
from gateway.protocol.constrained import Wanted
from gateway.protocol.limits import Limits, at_most_length
from gateway.protocol.tools import AllowedChoice, NamedChoice, Tool, ToolChoice, forces_a_call, may_call

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
UNUSABLE = "invalid_grammar"
"""The code of a grammar that cannot be compiled."""

Accept = Callable[[Wanted], Awaitable[Grammar]]
"""Raises ``InvalidRequest`` where it cannot be compiled."""


@dataclass(frozen=True, slots=True)
class _Offered:
    """A tool that may be called."""

    param: str
    """Of its schema."""
    function: Function
    """With a schema that can be enforced, as far as that shows without compiling it."""
    loose: Function
    """The same, held to no more than an object."""
    strict: bool
    length: int = 0
    """Characters of the rules for its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCalls:
    """What has to be enforced of the calls of a request, and of its answers beside them."""

    param: str
    """The field that says so."""
    tools: Sequence[_Offered]
    syntax: CallSyntax
    spelling: Spelling
    reasoning: Reasoning | None
    has_to_call: bool
    single: bool
    form: Wanted | None
    """Of an answer that is no call."""
    limits: Limits

    async def accepted(self, accept: Accept) -> Grammar:
        """The grammar to be used. A tool that is not strict and whose schema cannot be compiled may have any object.

        Raises InvalidRequest, which names the field whose grammar cannot be compiled.
        """
        if self.form is not None:
            await accept(self.form)
        try:
            return await accept(self._wanted([tool.function for tool in self.tools]))
        except InvalidRequest as error:
            if error.code != UNUSABLE:
                raise
            functions = [await self._usable(tool, accept) for tool in self.tools]
            if functions == [tool.function for tool in self.tools]:
                raise
        return await accept(self._wanted(functions))

    async def _usable(self, tool: _Offered, accept: Accept) -> Function:
        alone = CallGrammars(self.syntax, [tool.function], self.spelling, reasoning=None).one(0)
        try:
            await accept(Wanted(tool.param, Trial(kind="lark", source=alone)))
        except InvalidRequest as error:
            if tool.strict or error.code != UNUSABLE:
                raise
            return tool.loose
        return tool.function

    def _wanted(self, functions: Sequence[Function]) -> Wanted:
        grammars = CallGrammars(self.syntax, functions, self.spelling, reasoning=self.reasoning)
        if self.form is None:
            kind = grammars.calls if self.has_to_call else grammars.text_and_calls
            source = kind(single=self.single)
            self._check_size(source)
            return Wanted(self.param, Trial(kind="lark", source=source))
        as_terminal = self.form.trial.kind == "regex"
        around = grammars.around_another(single=self.single, as_terminal=as_terminal)
        self._check_size("".join(around))
        trial = msgspec.structs.replace(self.form.trial, around=around)
        return Wanted(self.param, trial)

    def _check_size(self, source: str) -> None:
        _check_length(len(source), self.limits)


def wanted_calls(
    tools: Sequence[Tool],
    choice: ToolChoice | None,
    parsing: Parsing | None,
    form: Wanted | None,
    *,
    template: str,
    token_of: TokenOf,
    limits: Limits,
) -> WantedCalls | None:
    """What has to be enforced of the calls, None where nothing has to.

    Args:
        tools: all of them, of which ``choice`` may allow some.
        form: of an answer that is no call. Where the model has to call there is none.
        template: the chat template that shows the tools.
        token_of: text → the special token that it is.

    Raises:
        UnsupportedParameter: the model's format leaves no way to enforce it.
        InvalidRequest: a strict schema has a keyword that cannot be enforced.
    """
    has_to_call = forces_a_call(choice)
    form = None if has_to_call else form
    strict = next((at for at, tool in enumerate(tools) if tool.function.strict), None)
    if not tools or parsing is None or parsing.tool_format is None:
        return None
    if has_to_call or isinstance(choice, AllowedChoice):
        param = "tool_choice"
    elif form is not None:
        param = form.param
    elif strict is not None:
        param = f"tools[{strict}].function.strict"
    else:
        return None
    syntax = tool_formats()[parsing.tool_format].syntax(template)
    if form is not None:
        _check_told_apart(form, syntax, parsing.tool_format)
    spelling = Spelling(parsing.markers, token_of)
    return WantedCalls(
        param=param,
        tools=_all_offered(tools, choice, syntax, spelling, limits),
        syntax=syntax,
        spelling=spelling,
        reasoning=_reasoning(parsing),
        has_to_call=has_to_call,
        single=isinstance(choice, NamedChoice) or parsing.single_call,
        form=form,
        limits=limits,
    )


def after_reasoning(wanted: Wanted, parsing: Parsing | None, token_of: TokenOf) -> Wanted:
    """The same with room for the model's reasoning before the answer."""
    if parsing is None or parsing.reasoning_format is None:
        return wanted
    found = Reasoning(reasoning_formats()[parsing.reasoning_format], parsing.in_reasoning)
    around = around_answer(found, Spelling(parsing.markers, token_of))
    return Wanted(wanted.param, msgspec.structs.replace(wanted.trial, around=around))


def _check_told_apart(form: Wanted, syntax: CallSyntax, name: str) -> None:
    """Raises ``UnsupportedParameter`` where an answer of this form may begin as calls do, which nothing else marks."""
    if not syntax.opening or form.trial.kind == "regex":
        return
    if form.begins is None or syntax.opening in form.begins:
        raise _unsupported(
            form.param,
            f"beside 'tools', an answer of this form could not be told from a call in the model's format, {name}, "
            f"which begins with '{syntax.opening}'",
        )


def _reasoning(parsing: Parsing) -> Reasoning | None:
    if parsing.reasoning_format is None:
        return None
    return Reasoning(reasoning_formats()[parsing.reasoning_format], parsing.in_reasoning)


def _all_offered(
    tools: Sequence[Tool], choice: ToolChoice | None, syntax: CallSyntax, spelling: Spelling, limits: Limits
) -> list[_Offered]:
    offered, length = [], 0
    for at, tool in enumerate(tools):
        if may_call(choice, tool):
            offered.append(_offered(tool, f"tools[{at}].function.parameters", syntax, spelling, limits))
            # Formats that write arguments one by one repeat the definitions of a schema for each.
            length += offered[-1].length
            _check_length(length, limits)
    return offered


def _check_length(length: int, limits: Limits) -> None:
    at_most_length(length, "characters of the grammar of all tools", limits, "max_tool_grammar", "tools")


def _offered(tool: Tool, param: str, syntax: CallSyntax, spelling: Spelling, limits: Limits) -> _Offered:
    """Raises ``InvalidRequest`` where a strict schema cannot be enforced."""
    name, parameters, strict = tool.function.name, tool.function.parameters, bool(tool.function.strict)
    loose = Function(name, loose_schema(parameters, syntax))
    try:
        check_schema(parameters or {}, param, limits.max_schema_depth)
        schema = ANY_ARGUMENTS | close_objects(parameters) if parameters else NO_ARGUMENTS
        length = sum(map(len, arguments_rules("arguments", schema, syntax, spelling)))
    except CannotSpellError as error:
        if strict:
            raise _unsupported(f"{param}{error.path}", str(error)) from None
        return _Offered(param, loose, loose, strict)
    except InvalidRequest:
        if strict:
            raise
        return _Offered(param, loose, loose, strict)
    return _Offered(param, Function(name, schema), loose, strict, length)


def _unsupported(param: str, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"'{param}' is not supported: {why}.", param=param)
