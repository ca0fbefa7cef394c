"""Answers of random tokens under the grammar of each format: its parser reads calls whose arguments validate."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from transcripts import hear
from vocabularies import Vocabularied, with_tokens

from gateway.completion.events import CallDelta
from gateway.completion.formats import reasoning_formats, tool_formats
from gateway.completion.parser import Parsing
from gateway.grammars.spelling import Spelling
from gateway.grammars.tool_calls import CallGrammars, Function, Reasoning

SCHEMAS: dict[str, dict[str, Any]] = {
    "f": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "maxLength": 12},
            "n": {"type": "integer", "minimum": -5, "maximum": 99},
            "kind": {"type": "string", "enum": ["a", "a b", "é\"'\n</"]},
            "on": {"type": "boolean"},
            "plate": {"type": "string", "pattern": "^[A-C]{1,3}-\\d+$", "maxLength": 6},
            "code": {"type": "string", "pattern": "[0-9]x", "maxLength": 8},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]},
            "list": {"type": "array", "items": {"$ref": "#/$defs/item"}, "maxItems": 2},
        },
        "required": ["text", "n", "list", "plate"],
        "additionalProperties": False,
        "$defs": {"item": {"type": "string", "maxLength": 4}},
    },
    "none": {"type": "object", "properties": {}, "additionalProperties": False},
    "o.p-q": {"type": "object", "properties": {"any": {}, "map": {"type": "object"}}, "required": ["any"]},
    "open": {"type": "object"},
}
FUNCTIONS = [Function(name, schema) for name, schema in SCHEMAS.items()]
TYPES = {"f": {"text": "string", "n": "integer", "kind": "string", "on": "boolean", "list": "array"}}
TYPES["f"] |= {"plate": "string", "code": "string"}
TYPES |= {"o.p-q": {"map": "object"}}
TEMPLATES = {
    "mistral": ("", "[ARGS]"),
    "deepseek": ("", "```json"),
    "phi": ("", "functools["),
    "glm": ("", "</arg_key>\n<arg_value>"),
}
REASONS = {"harmony": "harmony", "mistral": "mistral"}
CASES = [
    (name, template, special)
    for name in tool_formats()
    for template in TEMPLATES.get(name, ("",))
    for special in (True, False)
]
WALKS = 16


class Enforced:
    def __init__(self, name: str, template: str, special: bool) -> None:
        reasoning = REASONS.get(name, "think")
        self.parsing = Parsing(tool_format=name, reasoning_format=reasoning, schemas=TYPES)
        markers = sorted(self.parsing.markers)
        self.syntax = tool_formats()[name].syntax(template)
        spelt = {*markers, self.syntax.trigger} - {""}
        tokens = markers if special else ()
        self.vocabulary: Vocabularied = with_tokens(*tokens, plain=tuple(sorted(spelt.difference(tokens))))
        spelling = Spelling(markers, self.vocabulary.tokenizer.special_id)
        before = Reasoning(reasoning_formats()[reasoning], begun=False)
        self.grammars = CallGrammars(self.syntax, FUNCTIONS, spelling, reasoning=before)

    def answers(self, source: str, count: int, begin: str = "") -> list[str]:
        """Those of so many that came to an end."""
        rng = random.Random(source)
        found = (self.vocabulary.random_answer(source, rng, 250, begin) for _ in range(count))
        return [answer for answer in found if answer is not None]

    def read(self, text: str) -> tuple[str, tuple[CallDelta, ...]]:
        """Content and calls, all of which validate. They do not depend on how the text is cut."""
        content, _, calls = whole = hear(self.parsing, [text])
        assert hear(self.parsing, text) == whole
        rng = random.Random(text)
        cuts = sorted(rng.choices(range(len(text) + 1), k=8))
        assert hear(self.parsing, [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]) == whole
        for call in calls:
            assert call.name in SCHEMAS, text
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
        return content, calls


@pytest.mark.parametrize(("name", "template", "special"), CASES)
def test_where_the_model_has_to_call(name: str, template: str, special: bool) -> None:
    enforced = Enforced(name, template, special)
    answers = enforced.answers(enforced.grammars.calls(single=False), WALKS)
    assert len(answers) > WALKS // 4
    for text in answers:
        content, calls = enforced.read(text)
        assert calls and not content, text


@pytest.mark.parametrize(("name", "template", "special"), CASES)
def test_where_it_may(name: str, template: str, special: bool) -> None:
    enforced = Enforced(name, template, special)
    source = enforced.grammars.text_and_calls(single=False)
    called = enforced.answers(source, WALKS // 2, enforced.syntax.trigger or enforced.syntax.opening)
    assert len(called) > WALKS // 8 and any(enforced.read(text)[1] for text in called)
    for text in enforced.answers(source, WALKS // 2):
        enforced.read(text)
