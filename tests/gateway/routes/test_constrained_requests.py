"""Requests that say what an answer has to look like: what they come to, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_for_tests import serving
from tokenizers_for_tests import byte_level

from engine.grammar import Grammar
from gateway.chat_template import ChatTemplate
from gateway.prompt import Prompts
from gateway.protocol.limits import Limits

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ANY = Grammar("json_schema", '{"type":"object"}')
BY_SCHEMA = Grammar("json_schema", json.dumps(SCHEMA | {"additionalProperties": False}, separators=(",", ":")))
OPEN = Grammar("json_schema", json.dumps(SCHEMA, separators=(",", ":")))


def schema_format(schema: Any = SCHEMA, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


TAGS: dict[str, Any] = {
    "type": "structural_tag",
    "structures": [{"begin": "<f=x>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f="],
}
TREE: dict[str, Any] = {
    "type": "structural_tag",
    "format": {
        "type": "sequence",
        "elements": [
            {"type": "tag", "begin": "<r>", "content": {"type": "any_text"}, "end": "</r>"},
            {"type": "json_schema", "json_schema": SCHEMA},
            {"type": "optional", "content": {"type": "grammar", "grammar": 'root ::= "yes"'}},
        ],
    },
}


def tree(format_: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "structural_tag", "format": format_}}


FAR = {"type": "array", "enum": [1], "items": {"$ref": "#/enum/" + "1" * 5000}}
"""An index that Python would not even read."""


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "structured_outputs": {}}, None),
        ({"response_format": {"type": "json_object"}}, ANY),
        ({"response_format": schema_format(strict=True, description="d")}, BY_SCHEMA),
        ({"response_format": schema_format(strict=False)}, BY_SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, ANY),
        ({"structured_outputs": {"json": SCHEMA}}, BY_SCHEMA),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, BY_SCHEMA),
        ({"structured_outputs": {"json": SCHEMA, "disable_additional_properties": True}}, BY_SCHEMA),
        ({"structured_outputs": {"json": SCHEMA, "disable_additional_properties": False}}, OPEN),
        ({"structured_outputs": {"json_object": True}}, ANY),
        ({"structured_outputs": {"json_object": False}}, None),
        ({"structured_outputs": {"regex": "[a-z]+"}}, Grammar("regex", "[a-z]+")),
        ({"structured_outputs": {"choice": ["yes", 'n"o']}}, Grammar("lark", 'start: "yes" | "n\\"o"\n')),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, Grammar("lark", 'root ::= "a"')),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": False}}, Grammar("regex", "a")),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "complete"])
async def test_what_a_request_comes_to(endpoint, fields, grammar):
    async with serving() as server:
        answer = await getattr(server, endpoint)(**fields)
        assert answer.status_code == 200, answer.text
        assert server.lifecycle.last.grammar == grammar
        named = next(iter(fields), None) if grammar is not None else None
        inner = fields.get("structured_outputs") or {}
        assert server.lifecycle.last.form_param == (f"{named}.{next(iter(inner))}" if inner and named else named)


async def test_structural_tags_in_both_fields():
    async with serving() as server:
        for fields in ({"response_format": TAGS}, {"structured_outputs": {"structural_tag": json.dumps(TAGS)}}):
            assert (await server.chat(**fields)).status_code == 200
            grammar = server.lifecycle.last.grammar
            assert grammar.kind == "lark" and '"x>"' in grammar.source and "%json" in grammar.source
        for fields in ({"response_format": TREE}, {"structured_outputs": {"structural_tag": json.dumps(TREE)}}):
            assert (await server.chat(**fields)).status_code == 200
            source = server.lifecycle.last.grammar.source
            assert "<r>" in source and "%json" in source and "\0" not in source


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"response_format": "json"}, "response_format", "object"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema", "Unknown parameter"),
        ({"response_format": schema_format("x")}, "response_format.json_schema.schema", "expected an object"),
        ({"response_format": schema_format(title="x")}, "response_format.json_schema.title", "Unknown parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "pattern",
        ),
        ({"response_format": schema_format({"not": {}})}, "response_format.json_schema.schema.not", "'not'"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not valid JSON"),
        ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json", "JSON object"),
        ({"structured_outputs": {"json": {"if": {}}}}, "structured_outputs.json.if", "'if'"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "it has regex, choice"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "empty"),
        ({"structured_outputs": {"regex": "refuse"}}, "structured_outputs.regex", "refused"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"bad_words": ["a", " \n"]}, "bad_words", "white space"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp", "'regex'"),
        (
            {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
            "structured_outputs.whitespace_pattern",
            "not",
        ),
        ({"response_format": {"type": "structural_tag"}}, "response_format.structures", "or instead"),
        ({"response_format": TAGS | {"format": TREE["format"]}}, "response_format.structures", "excludes format"),
        (tree({"type": "dispatch"}), "response_format.format.type", "triggered_tags"),
        (tree({"type": "nothing"}), "response_format.format.type", "must be one of"),
        (tree({"type": "any_text", "max_tokens": 5}), "response_format.format.max_tokens", "whole answer"),
        (
            tree({"type": "or", "elements": [{"type": "token", "token": 5}]}),
            "response_format.format.elements[0].type",
            "no tokens",
        ),
        (
            tree({"type": "tag", "begin": {"type": "token", "token": 5}, "content": {"type": "any_text"}, "end": "a"}),
            "response_format.format.begin",
            "no tokens",
        ),
        (
            tree({"type": "sequence", "elements": [{"type": "any_text"}, {"type": "const_string", "value": "a"}]}),
            "response_format.format.elements[0]",
            "come last",
        ),
        (tree({"type": "regex", "pattern": "refuse"}), "response_format", "refused"),
        (tree({"type": "const_string", "value": "a" * 70_000}), "response_format", "--max-grammar-size"),
        (
            tree({"type": "or", "elements": [{"type": "const_string", "value": "a"}] * 128}),
            "response_format.format",
            "--max-structures",
        ),
        (
            {"structured_outputs": {"structural_tag": json.dumps(TAGS | {"triggers": ["x"]})}},
            "structured_outputs.structural_tag.structures[0].begin",
            "none of the triggers",
        ),
        (
            {"response_format": TAGS | {"structures": [TAGS["structures"][0] | {"schema": FAR}]}},
            "response_format.structures[0].schema.items.$ref",
            "nothing at",
        ),
        (
            {"structured_outputs": {"structural_tag": json.dumps(TAGS | {"triggers": []})}},
            "structured_outputs.structural_tag.triggers",
            "at least 1",
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
            "'response_format'",
        ),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos", "response_format"),
        ({"structured_outputs": {"regex": "a"}, "min_tokens": 2}, "min_tokens", "structured_outputs.regex"),
        ({"guided_json": {}}, "guided_json", "use structured_outputs"),
        ({"bad_words": [""]}, "bad_words[0]", "empty"),
        ({"bad_words": ["x" * 300]}, "bad_words", "at most 256"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "at least 1"),
        ({"allowed_token_ids": [10**6]}, "allowed_token_ids[0]", "token ids lie between"),
    ],
)
async def test_what_is_refused_names_the_field(fields, param, said):
    async with serving() as server:
        for answer in (await server.chat(**fields), await server.complete(**fields)):
            error = answer.json()["error"]
            assert answer.status_code == 400 and error["param"] == param, error
            assert said in error["message"], error
        assert not server.lifecycle.requests


@pytest.mark.parametrize(
    ("fields", "param", "limit"),
    [
        ({"structured_outputs": {"regex": "a" * 101}}, "structured_outputs.regex", "100"),
        ({"structured_outputs": {"grammar": "a" * 101}}, "structured_outputs.grammar", "100"),
        ({"structured_outputs": {"json": json.dumps({"title": "a" * 101})}}, "structured_outputs.json", "100"),
        ({"response_format": schema_format({"title": "a" * 101})}, "response_format.json_schema.schema", "100"),
        ({"structured_outputs": {"choice": ["a", "b", "c", "d"]}}, "structured_outputs.choice", "3"),
        ({"structured_outputs": {"choice": ["a" * 101]}}, "structured_outputs.choice", "100"),
        (
            {"structured_outputs": {"json": {"items": {"items": {}}}}},
            "structured_outputs.json.items.items",
            "2 levels",
        ),
        ({"bad_words": ["a"] * 5}, "bad_words", "4"),
        ({"allowed_token_ids": [1] * 5}, "allowed_token_ids", "4"),
    ],
)
async def test_limits_are_named(fields, param, limit):
    limits = Limits(max_grammar_size=100, max_choices=3, max_schema_depth=2, max_logit_bias=4)
    async with serving(limits=limits) as server:
        answer = await server.chat(**fields)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == param and limit in error["message"], error


async def test_bad_words_become_tokens_with_and_without_a_space():
    async with serving() as server:
        assert (await server.chat(bad_words=["ab"], allowed_token_ids=[3, 5])).status_code == 200
        params = server.lifecycle.last.params[0]
        encode = server.state.prompts.tokenizer.encode
        assert params.bad_words[0] == tuple(encode("ab", add_special_tokens=False))
        assert params.allowed_token_ids == (3, 5)


@pytest.mark.parametrize("thinks", [True, False])
async def test_reasoning_comes_before_what_is_enforced(thinks):
    template = ChatTemplate(
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking %}{% endif %}<think>", {}
    )
    async with serving(reasoning_format="think", prompts=Prompts(byte_level(), template)) as server:
        fields = {"response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": thinks}}
        assert (await server.chat(**fields)).status_code == 200
        assert "</think>" in server.lifecycle.last.grammar.source
