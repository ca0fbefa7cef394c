"""What a grammar of a format allows is what its parser reads."""

from __future__ import annotations

import pytest
from transcripts import Transcript, check, spelt

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
def test_calls_or_another_form(name: str, syntax: CallSyntax) -> None:
    """Text that begins as no call does is text to its end, even if it holds one."""
    either = Parsing(tool_format=name, calls_or_form=True, schemas={"f": {"a": "string"}})
    call = spelt(syntax, [ONE])
    check(either, Transcript("call", call, calls=[ONE]))
    if syntax.trigger:
        check(either, Transcript("call after space", f"\n{call}", calls=[ONE]))
        check(either, Transcript("form", f'{{"a": "{call}"}}', f'{{"a": "{call}"}}'))


def test_reasoning_that_a_grammar_leaves_room_for() -> None:
    for name, each in reasoning_formats().items():
        if each.end:
            parsing = Parsing(reasoning_format=name)
            check(parsing, Transcript("both", f"{each.begin}Hm{each.end}{each.answer}\n\nYes", "Yes", reasoning="Hm"))
            if not each.answer:
                begun = Parsing(reasoning_format=name, in_reasoning=True)
                check(begun, Transcript("begun", f"Hm{each.end}\nYes", "Yes", reasoning="Hm"))
    assert {name for name, each in reasoning_formats().items() if each.end} == {"harmony", "think", "mistral"}
