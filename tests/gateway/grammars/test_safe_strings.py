"""Values in which a marker never stands, whatever their schema says of members: random answers, and what is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from vocabularies import with_tokens

from engine.grammar import json_rule
from gateway.grammars.safe_strings import without
from gateway.grammars.spelling import CannotSpellError

SHORT = {"type": "string", "maxLength": 5}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "patternProperties": {"^x-[a-z]{1,3}$": SHORT}, "additionalProperties": False},
    {"type": "object", "patternProperties": {"^x": SHORT}, "minProperties": 1},
    {"type": "object", "patternProperties": {"[0-9]": {"enum": [1, 2]}}, "additionalProperties": SHORT},
    {"type": "object", "patternProperties": {"k$": {"type": "array", "items": SHORT, "maxItems": 2}}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: next(iter(schema["patternProperties"])))
def test_members_by_patterns_of_names_lack_the_pair(schema: dict[str, Any]) -> None:
    vocabulary, rng = with_tokens(plain=("</", "<", "/")), random.Random(5)
    safe, loose = (f"start: {json_rule(each)}\n" for each in (without("</", schema), schema))
    answers = [vocabulary.random_answer(safe, rng, 60) for _ in range(30)]
    ended = [answer for answer in answers if answer is not None]
    assert len(ended) > 2 and any(len(answer) > 2 for answer in ended)
    for answer in ended:
        assert "</" not in answer
        jsonschema.validate(json.loads(answer), schema)
        assert vocabulary.allows(loose, answer)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [("^x", "xa<b", "xa</b"), ("[0-9]+", "<1<", "</1"), ("^a|b$", "b", "</b"), (r"^\w{2}$", "ab", "a</")],
)
def test_what_names_may_be(pattern: str, good: str, bad: str) -> None:
    vocabulary = with_tokens()
    schema = without("</", {"type": "object", "patternProperties": {pattern: {"enum": [1]}}})
    source = f"start: {json_rule(schema)}\n"
    assert vocabulary.allows(source, json.dumps({good: 1}))
    assert not vocabulary.allows(source, json.dumps({bad: 1}))
    assert not vocabulary.allows(source, '{"other</": 2}')


@pytest.mark.parametrize("pattern", ["^.$", "[^a]", "</", r"\W", "^<", "[ -~]"])
def test_a_pattern_that_may_spell_the_pair_is_refused_by_its_place(pattern: str) -> None:
    inner = {"type": "object", "patternProperties": {pattern: {}}}
    with pytest.raises(CannotSpellError) as raised:
        without("</", {"type": "object", "properties": {"a": {"type": "array", "items": inner}}})
    assert raised.value.path == f".properties.a.items.patternProperties.{pattern}"
