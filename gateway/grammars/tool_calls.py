"""Tool calls as a Lark grammar: what an answer looks like that has to call, or whose calls have to follow schemas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.completion.formats.base import CallSyntax, ReasoningFormat
from gateway.grammars.arguments import arguments_rules
from gateway.grammars.spelling import Spelling

Around = tuple[str, str]
"""The beginning and the end of a grammar, between which a rule has its place."""


@dataclass(frozen=True, slots=True)
class Function:
    """One that may be called."""

    name: str
    schema: dict[str, Any]
    """Of its arguments."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What may come before."""

    format: ReasoningFormat
    begun: bool
    """By the prompt."""


@dataclass(frozen=True, slots=True)
class Before:
    """What may come before: ``use`` in a rule, and the rules that it needs."""

    use: str = ""
    rules: str = ""


def reasoning_before(reasoning: Reasoning | None, spelling: Spelling) -> Before:
    """Reasoning up to its end marker: the rest of what the prompt has begun, or all of it or none."""
    if reasoning is None:
        return Before()
    markers = reasoning.format
    begin = "" if reasoning.begun else spelling.rule(markers.begin)
    # The parser ends the reasoning at a marker however it is spelt.
    spelt = {*markers.other_ends, *([markers.end] if spelling.is_token(markers.end) else [])}
    rules = [
        f"reasoning: {begin} thoughts SPACE",
        spelling.up_to("thoughts", spelling.text_without(spelt), markers.end),
        r"SPACE: /[ \n]{0,2}/",
    ]
    return Before("reasoning" if reasoning.begun else "reasoning?", "\n".join(rules) + "\n")


def around_answer(reasoning: Reasoning, spelling: Spelling) -> Around:
    """Of an answer of another form, with the reasoning before it."""
    before = reasoning_before(reasoning, spelling)
    return f"start: {before.use} {spelling.rule(reasoning.format.answer)} answer\nanswer: ", f"\n{before.rules}"


class CallGrammars:
    """Grammars of answers that hold calls of some functions."""

    def __init__(
        self, syntax: CallSyntax, functions: Sequence[Function], spelling: Spelling, *, reasoning: Reasoning | None
    ) -> None:
        """Raises ``CannotSpellError`` where the format leaves no way to enforce a function's schema."""
        self._syntax, self._functions, self._spelling = syntax, functions, spelling
        self._before = reasoning_before(reasoning, spelling)
        self._names = " | ".join(f"call-{number}" for number in range(len(functions)))
        self._arguments = [
            "\n".join(arguments_rules(f"arguments-{number}", function.schema, syntax, spelling))
            for number, function in enumerate(functions)
        ]

    def one(self, number: int) -> str:
        """The arguments of one function alone."""
        return f"start: arguments-{number}\n{self._arguments[number]}\n"

    def calls(self, *, single: bool) -> str:
        """One call or, unless ``single``, several, and nothing beside them but the reasoning before."""
        return self._grammar(f"start: {self._before.use} calls", *self._whole_calls(single))

    def text_and_calls(self, *, single: bool) -> str:
        """Any text; wherever a call begins, it is one of these."""
        syntax, spelling = self._syntax, self._spelling
        if not syntax.trigger:
            return self._text_or_calls(single)
        rest = (syntax.begin + syntax.before).removeprefix(syntax.trigger)
        # In an array the calls that follow do not begin with the trigger.
        more = f"({spelling.rule(syntax.between)} {spelling.rule(syntax.before)} ({self._names}))*"
        more = more if syntax.begin and not single else ""
        text = self._text()
        return self._grammar(
            f"start: {self._before.use} calls* TEXT",
            f"TEXT: {text}",
            spelling.up_to("head", text, syntax.trigger),
            f"calls: head {spelling.rule(rest)} ({self._names}) {more} {spelling.rule(syntax.end)}",
            *self._each(syntax.before),
        )

    def around_another(self, *, single: bool, as_terminal: bool) -> Around:
        """Calls, or an answer of another form. ``as_terminal``: that stands in a terminal."""
        text = self._spelling.rule(self._syntax.text)
        whole = self._grammar(f"start: {self._before.use} (calls | {text} answer)", *self._whole_calls(single))
        if as_terminal:
            return f"{whole}answer: ANSWER\nANSWER: ", f" & {self._text(trigger=False)}\n"
        return f"{whole}answer: ", "\n"

    def _text_or_calls(self, single: bool) -> str:
        """Where no marker tells calls from text."""
        syntax, spelling = self._syntax, self._spelling
        text = self._text()
        preface, rules = "", []
        if syntax.preface is not None:
            begin, end = syntax.preface
            preface, rules = (
                "preface?",
                [
                    f"preface: {spelling.rule(begin)} remark",
                    spelling.up_to("remark", text, end),
                ],
            )
        return self._grammar(
            f"start: {self._before.use} ({preface} calls | {spelling.rule(syntax.text)} TEXT)",
            f"TEXT: {text}",
            *rules,
            *self._whole_calls(single),
        )

    def _whole_calls(self, single: bool) -> list[str]:
        syntax, spelling = self._syntax, self._spelling
        more = "" if single or syntax.single else f"({spelling.rule(syntax.between)} call)*"
        return [
            f"calls: {spelling.rule(syntax.begin)} call {more} {spelling.rule(syntax.end)}",
            f"call: {self._names}",
            *self._each(""),
        ]

    def _each(self, without: str) -> list[str]:
        """A rule for the call of each function, from after ``without`` on."""
        syntax, lines = self._syntax, []
        for number, function in enumerate(self._functions):
            name = function.name if syntax.arguments else msgspec.json.encode(function.name).decode()[1:-1]
            begin = self._spelling.rule(f"{syntax.before}{name}{syntax.middle}".removeprefix(without))
            lines.append(f"call-{number}: {begin} arguments-{number} {self._spelling.rule(syntax.after)}")
            lines.append(self._arguments[number])
        return lines

    def _text(self, *, trigger: bool = True) -> str:
        """The body of a terminal for text that is no call, and that the parser takes for none.

        ``trigger``: whether a rule beside it finds the trigger, where that is spelt.
        """
        syntax = self._syntax
        spelt = set(syntax.others)
        if syntax.trigger and (self._spelling.is_token(syntax.trigger) or not trigger):
            spelt.add(syntax.trigger)
        text = self._spelling.text_without(spelt)
        if syntax.opening:
            text += f" & ~/[ \\t\\r\\n]*\\{syntax.opening}(?s:.*)/"
        return text

    def _grammar(self, *lines: str) -> str:
        return "\n".join(lines) + "\n" + self._before.rules
