"""Tool calls as a Lark grammar: what an answer looks like that has to call, or whose calls have to follow schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.grammar import json_rule, text_rule
from gateway.completion.formats.base import CallSyntax, ReasoningFormat

TokenOf = Callable[[str], int | None]
"""Text → the special token that it is, or None: grammars tell these from text that is spelt the same."""


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


class Spelling:
    """Text as a grammar writes it, where some of it may be special tokens."""

    def __init__(self, markers: Iterable[str], token_of: TokenOf) -> None:
        self._tokens = {text: token for text in markers if (token := token_of(text)) is not None}

    def rule(self, text: str) -> str:
        """What stands for the text in a rule; nothing for none."""
        parts: list[str] = []
        while text:
            at, marker = min(
                ((text.find(each), each) for each in self._tokens if each in text), default=(len(text), "")
            )
            parts += [text_rule(text[:at])] if at else []
            parts += [f"<[{self._tokens[marker]}]>"] if marker else []
            text = text[at + len(marker) :]
        return " ".join(parts)

    def up_to(self, name: str, text: str, marker: str) -> str:
        """A rule of that name for what the terminal ``text`` stands for, up to the marker, and the marker."""
        lazy = "" if marker in self._tokens else "[lazy]"
        return f"{name}{lazy}: {text} {self.rule(marker)}"


@dataclass(frozen=True, slots=True)
class Before:
    """What may come before: ``use`` in a rule, and the rules that it needs."""

    use: str = ""
    rules: str = ""


def reasoning_before(reasoning: Reasoning | None, spelling: Spelling) -> Before:
    """Reasoning up to its end marker: the rest of what the prompt has begun, or all of it or none."""
    if reasoning is None:
        return Before()
    begin = "" if reasoning.begun else spelling.rule(reasoning.format.begin)
    rules = [
        f"reasoning: {begin} thoughts SPACE",
        spelling.up_to("thoughts", "THOUGHTS", reasoning.format.end),
        r"THOUGHTS: /(.|\n)*/",
        r"SPACE: /[ \n]{0,2}/",
    ]
    return Before("reasoning" if reasoning.begun else "reasoning?", "\n".join(rules) + "\n")


def calls_grammar(
    syntax: CallSyntax, functions: Sequence[Function], spelling: Spelling, *, single: bool, reasoning: Reasoning | None
) -> str:
    """Lark: one call or, unless ``single``, several, and nothing beside them but the reasoning before."""
    names = " | ".join(f"call_{number}" for number in range(len(functions)))
    more = "" if single else f"({spelling.rule(syntax.between)} call)*"
    before = reasoning_before(reasoning, spelling)
    lines = [
        f"start: {before.use} {spelling.rule(syntax.begin)} call {more} {spelling.rule(syntax.end)}",
        f"call: {names}",
        *(_call(number, syntax, function, spelling, "") for number, function in enumerate(functions)),
    ]
    return "\n".join(lines) + "\n" + before.rules


def text_and_calls_grammar(
    syntax: CallSyntax, functions: Sequence[Function], spelling: Spelling, *, reasoning: Reasoning | None
) -> str:
    """Lark: any text; wherever a call begins, it is one of these. ``syntax`` has a trigger."""
    names = " | ".join(f"call_{number}" for number in range(len(functions)))
    rest = (syntax.begin + syntax.before).removeprefix(syntax.trigger)
    # In an array the calls that follow do not begin with the trigger.
    more = f"({spelling.rule(syntax.between)} {spelling.rule(syntax.before)} ({names}))*" if syntax.begin else ""
    before = reasoning_before(reasoning, spelling)
    lines = [
        f"start: {before.use} calls* TEXT",
        r"TEXT: /(.|\n)*/",
        spelling.up_to("head", "TEXT", syntax.trigger),
        f"calls: head {spelling.rule(rest)} ({names}) {more} {spelling.rule(syntax.end)}",
        *(_call(number, syntax, function, spelling, syntax.before) for number, function in enumerate(functions)),
    ]
    return "\n".join(lines) + "\n" + before.rules


def _call(number: int, syntax: CallSyntax, function: Function, spelling: Spelling, without: str) -> str:
    """A rule for the call of one function, from after ``without`` on."""
    name = msgspec.json.encode(function.name).decode()[1:-1]
    begin = spelling.rule(f"{syntax.before}{name}{syntax.middle}".removeprefix(without))
    return f"call_{number}: {begin} {json_rule(function.schema)} {spelling.rule(syntax.after)}"
