"""Grammars by llguidance over the demo model's vocabulary: what is allowed, what is refused, and that folding anew
gives the same masks."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest

from engine.demo_model import PATH
from engine.grammar import Grammar, GrammarError, text_rule
from engine.grammar_compiler import MOST_COMPILED, GrammarCompiler, words_of
from engine.grammar_reasons import readable
from engine.token_pieces import load_backend
from engine.vocabulary import Vocabulary

EOS = 2
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load(PATH, 1536)


@pytest.fixture(scope="module")
def compiler(vocabulary) -> GrammarCompiler:
    return GrammarCompiler(vocabulary, [EOS], 50_000)


def encode(text: str) -> list[int]:
    return load_backend(PATH).encode(text, add_special_tokens=False).ids


class Walk:
    """A matcher and what it allows."""

    def __init__(self, compiler: GrammarCompiler, grammar: Grammar, stops: tuple[int, ...] = (EOS,)) -> None:
        self.compiler, self.stops = compiler, stops
        self.matcher = compiler.matcher(grammar)
        self.bits = np.zeros(words_of(compiler.vocab_size), np.int32)

    def allowed(self) -> set[int]:
        self.compiler.fill(self.matcher, self.bits, self.stops)
        return {token for token in range(self.compiler.vocab_size) if self.bits[token // 32] >> token % 32 & 1}

    def takes(self, text: str) -> bool:
        """Whether it may be the whole answer."""
        for token in encode(text):
            if token not in self.allowed():
                return False
            assert self.matcher.consume_token(token)
        return EOS in self.allowed()


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (
            Grammar("json_schema", json.dumps(PERSON)),
            ['{"name":"Ada","age":36}', '{ "name": "Ada", "age": 36 }', '{\n  "name": "Ada",\n  "age": 36\n}'],
            ['{"name":"Ada"}', '{"age":36,"name":"Ada"}', '{"name":"Ada","age":-1}', '{"name":"Ada","age":36} ', "Ada"],
        ),
        (Grammar("json_schema", '{"type": "object"}'), ["{}", '{"a": [1, {"b": null}]}'], ["[]", "1", '{"a": 1,}']),
        (Grammar("regex", "[0-9]{4}-[0-9]{2}"), ["2026-11"], ["2026-1", "2026-111", "x2026-11"]),
        (Grammar("regex", "a/b|c\\nd"), ["a/b", "c\nd"], ["a", "c"]),
        (Grammar("lark", "start: " + text_rule('a\x7f"b')), ['a\x7f"b'], ["a"]),
        (Grammar("regex", r"a\\"), ["a\\"], ["a"]),
        (Grammar("lark", 'start: "yes" | "no, " reason\nreason: /[a-z]+/'), ["yes", "no, later"], ["no", "no, "]),
    ],
)
def test_what_a_grammar_takes(compiler, grammar, good, bad):
    assert [text for text in good if not Walk(compiler, grammar).takes(text)] == []
    assert [text for text in bad if Walk(compiler, grammar).takes(text)] == []


def test_white_space_is_bounded(compiler):
    """At each place where JSON may have it."""
    grammar = Grammar("json_schema", json.dumps(PERSON))
    for place in range(6):
        parts = ["{", '"name"', ":", '"Ada"', ",", '"age"']
        for blanks, goes_on in [("  ", False), ("\n\n", False), ("\n" + " " * 33, False), ("\n" + " " * 32, True)]:
            walk = Walk(compiler, grammar)
            text = "".join(parts[: place + 1]) + blanks
            taken = all(token in walk.allowed() and walk.matcher.consume_token(token) for token in encode(text))
            assert taken == goes_on, (text, blanks)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("json_schema", "[1]"), "no JSON object"),
        (Grammar("json_schema", '{"type": "objekt"}'), "objekt"),
        (Grammar("json_schema", '{"type": "string", "pattern": "("}'), "."),
        (Grammar("json_schema", '{"not": {}}'), "not"),
        (Grammar("json_schema", '{"enum": []}'), "."),
        (Grammar("regex", "a/("), r"^the expression 'a/\(': unclosed group$"),
        (Grammar("regex", r"\bfoo"), "^word boundaries"),
        (Grammar("regex", r"[^\s\S]"), "^no text matches it$"),
        (Grammar("lark", 'start: "a" ]'), "^line 1, column 12: "),
        (Grammar("lark", 'start: a\na: "x" other'), '^line 2, column 4: unknown name: "other"$'),
        (Grammar("lark", "start: <foo>"), "^line 1, column 8: the model has no special token <foo>$"),
        (Grammar("json_schema", '{"type": "string", "pattern": "(?=a)"}'), r"^the expression '\(\?=a\)': look-around"),
        (Grammar("json_schema", '{"oneOf": [{"type": "string"}, {"type": "string"}]}'), "^'oneOf' is enforced only"),
        (Grammar("json_schema", '{"type": "integer", "minimum": 5, "maximum": 2}'), "^no value is valid: minimum"),
        (Grammar("regex", ""), "empty"),
        (Grammar("regex", "abc\\"), "lone backslash"),
        (Grammar("lark", "start: other"), "other"),
        (Grammar("lark", ""), "start"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_a_reason_in_one_line(compiler, grammar, reason):
    with pytest.raises(GrammarError, match=reason) as raised:
        Walk(compiler, grammar).allowed()
    assert "\n" not in str(raised.value)
    assert not re.search("llguidance|x-guidance|NoExtension|verbose|f64|Unsatisfiable|%", str(raised.value))


def test_what_nobody_foresaw_is_told_without_innards():
    assert readable("thread panicked at parser/src/earley.rs:3") == "the compiler cannot make sense of it"
    assert readable("called `Option::unwrap()`") == readable("") == "the compiler cannot make sense of it"
    assert readable("at 2(8): some reason\n   1 | a\n   2 | b\n") == "some reason"


def test_states_are_limited(vocabulary):
    small = GrammarCompiler(vocabulary, [EOS], 20)
    with pytest.raises(GrammarError):
        walk = Walk(small, Grammar("regex", "[a-z]*(a|b)[a-z]{12}x"))
        for token in encode("abababab" * 4):
            walk.allowed()
            walk.matcher.consume_token(token)


def test_an_answer_may_end_by_any_stop_token_where_the_grammar_may(compiler):
    walk = Walk(compiler, Grammar("regex", "ab?"), stops=(EOS, 7))
    assert not walk.allowed() & {EOS, 7}
    walk.matcher.consume_tokens(encode("a"))
    assert walk.allowed() >= {EOS, 7}


def test_a_model_that_cannot_end_has_no_grammars(vocabulary):
    with pytest.raises(GrammarError, match="no end-of-sequence token"):
        GrammarCompiler(vocabulary, [], 50_000)


def test_special_tokens_are_no_text(compiler, vocabulary):
    allowed = Walk(compiler, Grammar("regex", "(.|\\n)*")).allowed()
    assert not allowed & (vocabulary.special_ids - {EOS})
    assert len(allowed) > 1000


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", json.dumps(PERSON)),
        Grammar("json_schema", '{"type": "object"}'),
        Grammar("regex", "([a-z]+ ){3,9}end"),
        Grammar("lark", 'start: (word | number)* "."\nword: /[a-z]+/ " "\nnumber: /[0-9]+/ " "'),
    ],
)
def test_a_matcher_folded_anew_allows_what_the_old_one_did(compiler, grammar):
    """Whatever the tokens so far: a replay must sample what would have been sampled."""
    for seed in range(5):
        draw, walk, tokens = random.Random(seed), Walk(compiler, grammar), []
        for _ in range(40):
            allowed = walk.allowed()
            fresh = Walk(compiler, grammar)
            assert not tokens or fresh.matcher.consume_tokens(tokens)
            assert fresh.allowed() == allowed
            going = sorted(allowed - {EOS})
            if not going:
                break
            tokens.append(draw.choice(going))
            assert walk.matcher.consume_token(tokens[-1])


def test_few_grammars_are_kept_compiled(compiler):
    for number in range(MOST_COMPILED + 5):
        compiler.matcher(Grammar("regex", f"a{number}"))
    assert len(compiler._compiled) == MOST_COMPILED


def test_nothing_is_kept_where_nothing_is_to_be(vocabulary):
    keeper = GrammarCompiler(vocabulary, [EOS], 50_000, most_kept=0)
    assert Walk(keeper, Grammar("regex", "[0-9]+")) and not keeper._compiled
