"""Structural tags as a grammar, over the demo model's vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from engine.demo_model import PATH
from engine.grammar import Grammar
from engine.grammar_compiler import GrammarCompiler, words_of
from engine.token_pieces import load_backend
from engine.vocabulary import Vocabulary
from gateway.grammars.structural_tags import Tag, tags_grammar, trigger_of

TAGS = (
    Tag("<call:add>", {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}, "</call>"),
    Tag("<call:name>", {"type": "string"}, ""),
    Tag("[", {"type": "integer"}, "]"),
)
TRIGGERS = ("<call:", "[")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("just text", True),
        ("", True),
        ('say <call:add>{"x": 3}</call> and [4] then', True),
        ('<call:name>"a"<call:name>"b"', True),
        ("<cal no trigger", True),
        ('<call:add>{"y": 3}</call>', False),
        ("<call:other>", False),
        ("[a", False),
        ('<call:add>{"x": 3}', False),
    ],
)
def test_text_and_tags(text, whole):
    compiler = GrammarCompiler(Vocabulary.load(PATH, 1536), [2], 50_000)
    matcher = compiler.matcher(Grammar("lark", tags_grammar(TAGS, TRIGGERS)))
    ids = load_backend(PATH).encode(text, add_special_tokens=False).ids
    taken = matcher.try_consume_tokens(ids) == len(ids)
    bits = np.zeros(words_of(1536), np.int32)
    if taken:
        compiler.fill(matcher, bits, ())
    assert (taken and bool(bits[0] >> 2 & 1)) is whole


def test_the_trigger_that_is_there_first_counts():
    assert trigger_of(Tag("<<a>", {}, ""), ["<<", "<", "a"]) == "<"
    assert trigger_of(Tag("a", {}, ""), ["b"]) is None
