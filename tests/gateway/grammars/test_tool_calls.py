"""Grammars of tool calls, over the demo model's vocabulary: what they allow, and that the parsers read it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from transcripts import spelt
from vocabularies import with_tokens

from engine.grammar import Grammar
from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.grammars.spelling import Spelling
from gateway.grammars.tool_calls import CallGrammars, Function, Reasoning

F = Function(
    "f",
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
)
G = Function('g-"h', {"type": "object"})
THINK = reasoning_formats()["think"]
CALL_F, CALL_G = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', (
    '<tool_call>\n{"name": "g-\\"h", "arguments": {"b": [{}, "}"]}}\n</tool_call>'
)  # fmt: skip


def allows(source: str, text: str, *special: str) -> bool:
    """Whether the text may be a whole answer."""
    return with_tokens(*special).allows(source, text)


def spelling(markers: Iterable[str], *special: str) -> Spelling:
    return Spelling(markers, with_tokens(*special).tokenizer.special_id)


HERMES = tool_formats()["hermes"].syntax("")
SPELT = spelling(tool_formats()["hermes"].markers)

CASES = [
    (CALL_F, True, True),
    (f"{CALL_F}\n{CALL_G}", True, True),
    (f"{CALL_G}\n{CALL_G}\n{CALL_F}", True, True),
    ("", False, True),
    ("Just text, with <tool and {}.", False, True),
    (f"So:\n{CALL_F} And {CALL_G}.", False, True),
    (f" {CALL_F}", False, True),
    (CALL_F.replace('"f"', '"h"'), False, False),
    (CALL_F.replace("1", '"1"'), False, False),
    (CALL_F.replace('"a": 1', ""), False, False),
    (CALL_F[:-3], False, False),
    ("<tool_call>", False, False),
    (f"{CALL_F}\n", False, True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "required", "auto"), CASES)
def test_what_hermes_allows(text: str, required: bool, auto: bool) -> None:
    grammars = CallGrammars(HERMES, [F, G], SPELT, reasoning=None)
    assert allows(grammars.calls(single=False), text) is required
    assert allows(grammars.calls(single=True), text) is (required and text.count("<tool_call>") == 1)
    assert allows(grammars.text_and_calls(single=False), text) is auto


@pytest.mark.parametrize("special", [(), ("</think>", "<think>", "<tool_call>")], ids=["spelt", "tokens"])
@pytest.mark.parametrize("begun", [False, True])
def test_reasoning_comes_before(begun: bool, special: tuple[str, ...]) -> None:
    spelt_so = spelling(("<tool_call>", "</tool_call>", "<think>", "</think>"), *special)
    grammars = CallGrammars(HERMES, [F], spelt_so, reasoning=Reasoning(THINK, begun))
    has_to = grammars.calls(single=False)
    thoughts = "Hm, <tool {.\nYes.</think>"
    for text, allowed in (
        (f"<think>\n{thoughts}\n\n{CALL_F}", not begun or not special),
        (f"{thoughts}{CALL_F}", begun),
        (CALL_F, not begun),
        (f"<think>{thoughts} no {CALL_F}", False),
        ("<think>Hm", False),
    ):
        assert allows(has_to, text, *special) is allowed, text
    free = grammars.text_and_calls(single=False)
    first = "" if begun else "<think>"
    assert allows(free, f"{first}{thoughts}So.\n{CALL_F}", *special)
    assert allows(free, "So.", *special) is not begun
    assert not allows(free, f"{first}{thoughts}So.\n{CALL_F.replace('1', 'x')}", *special)


@pytest.mark.parametrize("name", tool_formats())
@pytest.mark.parametrize("as_tokens", [False, True])
def test_every_format(name: str, as_tokens: bool) -> None:
    each = tool_formats()[name]
    special = each.markers if as_tokens else ()
    for template in ("", "[ARGS]", "```json", "functools[", "</arg_key>\n<arg_value>"):
        syntax = each.syntax(template)
        one, two = (spelt(syntax, [("f", {"a": 1})] * n) for n in (1, 2))
        wrong = spelt(syntax, [("f", {"a": None})])
        grammars = CallGrammars(syntax, [F, G], spelling(each.markers, *special), reasoning=None)
        has_to, free = grammars.calls(single=False), grammars.text_and_calls(single=False)
        assert allows(has_to, one, *special) and allows(has_to, two, *special) is not syntax.single
        assert not allows(has_to, f"Well. {one}", *special) and not allows(has_to, wrong, *special)
        assert allows(free, one, *special) and allows(free, f"{syntax.text}Well.", *special)
        assert not allows(free, wrong, *special)
        if syntax.trigger:
            assert allows(free, f"Well. {one}", *special) and allows(free, two, *special)
            assert not allows(free, f"Well. {wrong}", *special)
        if syntax.preface:
            before, after = syntax.preface
            assert allows(free, f"{before}Well.{after}{one}", *special)


@pytest.mark.parametrize("name", tool_formats())
@pytest.mark.parametrize("as_tokens", [False, True])
def test_calls_or_another_form(name: str, as_tokens: bool) -> None:
    each = tool_formats()[name]
    special = each.markers if as_tokens else ()
    syntax = each.syntax("")
    grammars = CallGrammars(syntax, [F], spelling(each.markers, *special), reasoning=None)
    call, wrong = spelt(syntax, [("f", {"a": 1})]), spelt(syntax, [("f", {"a": None})])
    forms = {
        Grammar("json_schema", '{"type": "array", "items": {"type": "string"}}'): ('["<x"]', "[1]"),
        Grammar("lark", 'start: "yes" | other\nother: /n+/ "o"'): ("nno", "o"),
        Grammar("regex", r"(?s:(\w|\W)*[.])"): ("Well.", "Well"),
    }
    for form, (right, not_right) in forms.items():
        if form.kind == "json_schema" and syntax.opening == "[":
            continue
        around = grammars.around_another(single=False, as_terminal=form.kind == "regex")
        source = form.rule().join(around)
        assert allows(source, syntax.text + right, *special)
        assert not allows(source, syntax.text + not_right, *special)
        assert allows(source, call, *special)
        assert not allows(source, wrong, *special) and not allows(source, f"{wrong}.", *special)
