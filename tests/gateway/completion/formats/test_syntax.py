"""What a grammar of a format allows is what its parser reads."""

from __future__ import annotations

import pytest
from transcripts import Transcript, check, hear, spelt

from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.completion.formats.base import CallSyntax
from gateway.completion.parser import Parsing

TEMPLATES = ("", "[ARGS]", "```json", "functools[", "</arg_key>\n<arg_value>")
SYNTAXES = {(name, each.syntax(template)) for name, each in tool_formats().items() for template in TEMPLATES}
ONE = ("f", {"a": "}]"})


@pytest.mark.parametrize(("name", "syntax"), sorted(SYNTAXES, key=str), ids=str)
def test_what_is_allowed_is_read(name: str, syntax: CallSyntax) -> None:
    parsing = Parsing(tool_format=name, schemas={"f": {"a": "string"}})
    text = spelt(syntax, [ONE])
    check(parsing, Transcript("one", text, calls=[ONE]))
    if not syntax.single:
        check(parsing, Transcript("three", spelt(syntax, [ONE] * 3), calls=[ONE] * 3))
    assert text.startswith(syntax.trigger or syntax.opening)
    if syntax.trigger:
        check(parsing, Transcript("after text", f"So: {text}", "So:", [ONE]))
    if syntax.preface:
        before, after = syntax.preface
        check(parsing, Transcript("after a remark", f"{before}So:{after}{text}", "So:", [ONE]))
    check(parsing, Transcript("text", f"{syntax.text}So.", "So."))


@pytest.mark.parametrize(("name", "syntax"), sorted(SYNTAXES, key=str), ids=str)
def test_a_call_that_is_cut_is_no_content(name: str, syntax: CallSyntax) -> None:
    """By max_tokens or a stop string, wherever that is: no markup is shown, and no part of a name is called."""
    parsing = Parsing(tool_format=name, schemas={"get_weather": {"a": "string"}})
    before = "So:".join(syntax.preface) if syntax.preface else "" if syntax.opening else "So: "
    text = before + spelt(syntax, [("get_weather", {"a": "}]"})] * (1 if syntax.single else 2))
    marks = {syntax.trigger, *syntax.others, *tool_formats()[name].markers}
    for at in range(len(text) + 1):
        content, _, calls = hear(parsing, [text[:at]], cut=True)
        left = content.removeprefix("So:").strip()
        assert "So:".startswith(content.strip()) or any(
            mark.startswith(left) and 2 * len(left) <= len(mark) for mark in marks
        ), f"cut before {text[at : at + 20]!r}"
        assert {call.name for call in calls} <= {"get_weather"}


@pytest.mark.parametrize(("name", "syntax"), sorted(SYNTAXES, key=str), ids=str)
def test_calls_or_another_form(name: str, syntax: CallSyntax) -> None:
    """Text that begins as no call does is text to its end, even if it holds one."""
    either = Parsing(tool_format=name, calls_or_form=True, schemas={"f": {"a": "string"}})
    call = spelt(syntax, [ONE])
    check(either, Transcript("call", call, calls=[ONE]))
    if syntax.trigger:
        check(either, Transcript("call after space", f"\n{call}", calls=[ONE]))
        check(either, Transcript("form", f'{{"a": "{call}"}}', f'{{"a": "{call}"}}'))


@pytest.mark.parametrize(("name", "syntax"), sorted(SYNTAXES, key=str), ids=str)
def test_reasoning_before_a_call(name: str, syntax: CallSyntax) -> None:
    call = spelt(syntax, [ONE])
    marks = {
        "think": ("<think>", "</think>\n\n"),
        "mistral": ("[THINK]", "[/THINK]"),
        "granite": ("Here is my thought process: ", " Here is my response: "),
    }
    marks = (
        {"harmony": (reasoning_formats()["harmony"].begin, reasoning_formats()["harmony"].end)}
        if syntax.text
        else marks
    )
    for reasoning, (begin, end) in marks.items():
        parsing = Parsing(tool_format=name, reasoning_format=reasoning, schemas={"f": {"a": "string"}})
        for thoughts in ("Hm.\nYes", "Hm { [ <"):
            text = f"{begin}{thoughts}{end}{call}"
            check(parsing, Transcript("reasoning", text, calls=[ONE], reasoning=thoughts))
            if syntax.trigger:
                text = f"{begin}{thoughts}{end}So: {call}"
                check(parsing, Transcript("and text", text, "So:", [ONE], reasoning=thoughts))
        if reasoning != "granite" and not syntax.text:
            begun = Parsing(
                tool_format=name, reasoning_format=reasoning, in_reasoning=True, schemas={"f": {"a": "string"}}
            )
            check(begun, Transcript("begun", f"Hm {call}{end}{call}", calls=[ONE], reasoning=f"Hm {call}".rstrip()))


@pytest.mark.parametrize("name", reasoning_formats())
def test_reasoning_that_a_grammar_leaves_room_for(name: str) -> None:
    each = reasoning_formats()[name]
    parsing = Parsing(reasoning_format=name)
    check(parsing, Transcript("both", f"{each.begin}Hm{each.end}{each.answer}\n\nYes", "Yes", reasoning="Hm"))
    for end in each.other_ends:
        if not each.answer:
            check(parsing, Transcript("another end", f"{each.begin}Hm{end}\nYes", "Yes", reasoning="Hm"))
    if name in ("think", "mistral"):
        begun = Parsing(reasoning_format=name, in_reasoning=True)
        check(begun, Transcript("begun", f"Hm{each.end}\nYes", "Yes", reasoning="Hm"))
