"""What a grammar of a format allows is what its parser reads."""

from __future__ import annotations

import pytest
from transcripts import Transcript, check

from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.completion.formats.base import CallSyntax
from gateway.completion.parser import Parsing

TEMPLATES = ("", "[ARGS]", "```json", "functools[")
SYNTAXES = {
    (name, syntax)
    for name, each in tool_formats().items()
    for template in TEMPLATES
    if (syntax := each.syntax(template)) is not None
}
ARGUMENTS = '{"a": "}]"}'


def spelt(syntax: CallSyntax, names: list[str]) -> str:
    calls = [f"{syntax.before}{name}{syntax.middle}{ARGUMENTS}{syntax.after}" for name in names]
    return syntax.begin + syntax.between.join(calls) + syntax.end


@pytest.mark.parametrize(("name", "syntax"), sorted(SYNTAXES, key=str), ids=str)
def test_what_is_allowed_is_read(name: str, syntax: CallSyntax) -> None:
    one = ("f", {"a": "}]"})
    parsing = Parsing(tool_format=name)
    check(parsing, Transcript("one", spelt(syntax, ["f"]), calls=[one]))
    check(parsing, Transcript("three", spelt(syntax, ["f"] * 3), calls=[one] * 3))
    text = spelt(syntax, ["f"])
    assert text.startswith(syntax.trigger)
    if syntax.trigger:
        check(parsing, Transcript("after text", f"So: {text}", "So:", [one]))


def test_which_formats_can_be_enforced() -> None:
    assert {name for name, _ in SYNTAXES} == tool_formats().keys() - {"glm", "harmony", "pythonic", "qwen3_coder"}


def test_reasoning_that_a_grammar_leaves_room_for() -> None:
    for name, each in reasoning_formats().items():
        if each.end:
            parsing = Parsing(reasoning_format=name)
            check(parsing, Transcript("both", f"{each.begin}Hm{each.end}\n\nYes", "Yes", reasoning="Hm"))
            begun = Parsing(reasoning_format=name, in_reasoning=True)
            check(begun, Transcript("begun", f"Hm{each.end}\nYes", "Yes", reasoning="Hm"))
    assert {name for name, each in reasoning_formats().items() if each.end} == {"think", "mistral"}
