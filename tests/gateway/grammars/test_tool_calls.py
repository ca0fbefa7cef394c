"""Grammars of tool calls, over the demo model's vocabulary: what they allow, and that the parsers read it."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from tokenizers import AddedToken

from engine.demo_model import PATH
from engine.grammar import Grammar
from engine.grammar_compiler import GrammarCompiler, words_of
from engine.token_pieces import load_backend, rules_of
from engine.vocabulary import Vocabulary
from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.grammars.tool_calls import (
    Function,
    Reasoning,
    Spelling,
    calls_grammar,
    text_and_calls_grammar,
)
from gateway.tokenizer import Tokenizer

F = Function(
    "f",
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
)
G = Function('g-"h', {"type": "object"})
THINK = reasoning_formats()["think"]
CALL_F, CALL_G = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', (
    '<tool_call>\n{"name": "g-\\"h", "arguments": {"b": [{}, "}"]}}\n</tool_call>'
)  # fmt: skip
EOS = 2


@functools.cache
def tokenizer(*special: str) -> Tokenizer:
    """The demo model's, with these as special tokens."""
    backend = load_backend(PATH)
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return Tokenizer(backend)


@functools.cache
def compiler(*special: str) -> GrammarCompiler:
    backend = tokenizer(*special)._backend
    rules = rules_of(backend)
    pieces = [
        rules.piece(backend.id_to_token(n), first=False) for n in range(backend.get_vocab_size(with_added_tokens=True))
    ]
    tokens = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    return GrammarCompiler(Vocabulary(tokens, tokenizer(*special).special_ids), [EOS], 50_000)


def allows(source: str, text: str, *special: str) -> bool:
    """Whether the text may be a whole answer."""
    matcher = compiler(*special).matcher(Grammar("lark", source))
    ids = tokenizer(*special).encode(text, add_special_tokens=False)
    if matcher.try_consume_tokens(ids) != len(ids):
        return False
    bits = np.zeros(words_of(compiler(*special).vocab_size), np.int32)
    compiler(*special).fill(matcher, bits, ())
    return bool(bits[EOS // 32] >> EOS % 32 & 1)


HERMES = tool_formats()["hermes"].syntax("")
assert HERMES is not None
SPELT = Spelling(tool_formats()["hermes"].markers, tokenizer().special_id)

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
    has_to = calls_grammar(HERMES, [F, G], SPELT, single=False, reasoning=None)
    assert allows(has_to, text) is required
    single = calls_grammar(HERMES, [F, G], SPELT, single=True, reasoning=None)
    assert allows(single, text) is (required and text.count("<tool_call>") == 1)
    free = text_and_calls_grammar(HERMES, [F, G], SPELT, reasoning=None)
    assert allows(free, text) is auto


@pytest.mark.parametrize("special", [(), ("</think>", "<think>", "<tool_call>")], ids=["spelt", "tokens"])
@pytest.mark.parametrize("begun", [False, True])
def test_reasoning_comes_before(begun: bool, special: tuple[str, ...]) -> None:
    spelling = Spelling(("<tool_call>", "</tool_call>", "<think>", "</think>"), tokenizer(*special).special_id)
    has_to = calls_grammar(HERMES, [F], spelling, single=False, reasoning=Reasoning(THINK, begun))
    thoughts = "Hm, <tool {.\nYes.</think>"
    for text, allowed in (
        (f"<think>\n{thoughts}\n\n{CALL_F}", not begun or not special),
        (f"{thoughts}{CALL_F}", begun),
        (CALL_F, not begun),
        (f"<think>{thoughts} no {CALL_F}", False),
        ("<think>Hm", False),
    ):
        assert allows(has_to, text, *special) is allowed, text
    free = text_and_calls_grammar(HERMES, [F], spelling, reasoning=Reasoning(THINK, begun))
    first = "" if begun else "<think>"
    assert allows(free, f"{first}{thoughts}So.\n{CALL_F}", *special)
    assert allows(free, "So.", *special) is not begun
    assert not allows(free, f"{first}{thoughts}So.\n{CALL_F.replace('1', 'x')}", *special)


@pytest.mark.parametrize("name", [name for name, each in tool_formats().items() if each.syntax("") is not None])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_every_format_that_can_be_enforced(name: str, as_tokens: bool) -> None:
    each = tool_formats()[name]
    special = each.markers if as_tokens else ()
    spelling = Spelling(each.markers, tokenizer(*special).special_id)
    for template in ("", "[ARGS]", "```json", "functools["):
        syntax = each.syntax(template)
        assert syntax is not None
        call = f"{syntax.before}f{syntax.middle}{json.dumps({'a': 1})}{syntax.after}"
        one, two = (syntax.begin + syntax.between.join([call] * n) + syntax.end for n in (1, 2))
        has_to = calls_grammar(syntax, [F, G], spelling, single=False, reasoning=None)
        assert allows(has_to, one, *special) and allows(has_to, two, *special)
        assert not allows(has_to, f"Well. {one}", *special)
        assert not allows(has_to, one.replace("1", "null"), *special)
        if syntax.trigger:
            free = text_and_calls_grammar(syntax, [F, G], spelling, reasoning=None)
            assert allows(free, f"Well. {one}", *special) and allows(free, two, *special)
            assert not allows(free, f"Well. {one.replace('1', 'null')}", *special)
