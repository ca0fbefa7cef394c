"""Structural tags as trees: a table of texts, and random trees whose random answers are matched by another reader."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter
from vocabularies import with_tokens

from engine.grammar import regex_rule
from engine.grammar_trial import _assembled
from engine.grammar_trial_messages import Trial
from gateway.errors import InvalidRequest
from gateway.grammars import structural_formats as tree
from gateway.grammars.structural_formats import NotWritableError, formats_grammar
from gateway.protocol.limits import Limits
from gateway.protocol.structural_format import AnyPart

PLAIN = ("<t", "</t>", "<u>", ">", "{", "}", '"a": ', "1", ",", "yes", "no", "b", "c", "END")
VOCABULARY = with_tokens(plain=PLAIN)
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
YES = 'root ::= "yes" | "no"'


def source_of(format_: tree.Format) -> str:
    written = formats_grammar(format_)
    trial = Trial(kind="lark", source=written.source, embedded=written.embedded)
    return _assembled(VOCABULARY.compiler, trial).source


def built(given: dict[str, Any]) -> tree.Format:
    part: Any = TypeAdapter(AnyPart).validate_python(given)
    return part.build("format", Limits())


def const(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def tag(begin: str, content: dict[str, Any], end: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end, **more}


ANY: dict[str, Any] = {"type": "any_text"}
INTEGER = {"type": "json_schema", "json_schema": {"type": "integer", "minimum": 0, "maximum": 99}}
A_JSON = {"type": "json_schema", "json_schema": OBJECT, "style": "json"}
CALLS = [tag("<t=f>", A_JSON, "</t>"), tag("<t=g>", {"type": "regex", "pattern": "^[a-c]+$"}, "</t>")]


def triggered(**more: Any) -> dict[str, Any]:
    return {"type": "triggered_tags", "triggers": ["<t="], "tags": CALLS, **more}


def separated(**more: Any) -> dict[str, Any]:
    return {"type": "tags_with_separator", "tags": CALLS, "separator": "; ", **more}


F, G = '<t=f>{"a": 1}</t>', "<t=g>abc</t>"
TABLE: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (const('a"\n'), ['a"\n'], ["a", ""]),
    (A_JSON, ['{"a": 1}'], ["{}", '{"a": 1} ']),
    ({"type": "regex", "pattern": "a|b/"}, ["a", "b/"], ["ab/", "c"]),
    ({"type": "grammar", "grammar": YES}, ["yes", "no"], ["maybe"]),
    ({"type": "grammar", "grammar": 'start: "x" y\ny: "z"'}, ["xz"], ["x"]),
    (ANY, ["", "any\ntext </t>"], []),
    (ANY | {"excludes": ["bad", "w.rse"]}, ["ba d", "worse"], ["a bad day", "w.rse"]),
    ({"type": "sequence", "elements": [const("So: "), INTEGER, const("!")]}, ["So: 12!"], ["So: !", "So: 12"]),
    ({"type": "sequence", "elements": [const("So"), ANY]}, ["So", "So it is"], ["S"]),
    ({"type": "or", "elements": [const("none"), A_JSON, INTEGER]}, ["none", '{"a": 1}', "7"], ["non", "none7"]),
    ({"type": "or", "elements": [const("a"), const("ab")]}, ["a", "ab"], ["b"]),
    (
        {"type": "sequence", "elements": [{"type": "regex", "pattern": "[a-z]+"}, const("end")]},
        ["abend"],
        ["end", "ab"],
    ),
    ({"type": "optional", "content": A_JSON}, ["", '{"a": 2}'], ["{}"]),
    ({"type": "plus", "content": const("ab")}, ["ab", "abab"], ["", "aba"]),
    ({"type": "star", "content": tag("<u>", INTEGER, ">")}, ["", "<u>1>", "<u>1><u>22>"], ["<u>>", "<u>1"]),
    ({"type": "repeat", "min": 1, "max": 2, "content": const("x")}, ["x", "xx"], ["", "xxx"]),
    ({"type": "repeat", "min": 2, "max": -1, "content": const("x")}, ["xx", "xxxxx"], ["x"]),
    (tag("<u>", ANY, "</u>"), ["<u></u>", "<u>a <b></u>"], ["<u>", "<u></u> ", "<u>a</u>b</u>", "a"]),
    (tag("<u>", ANY, ["</u>", "END"]), ["<u>a</u>", "<u>aEND"], ["<u>aEND</u>"]),
    (tag("<u>", ANY, "aa"), ["<u>aa", "<u>baa"], ["<u>aaa", "<u>a"]),
    (tag("<u>", ANY, ""), ["<u>", "<u>all the rest"], ["<u"]),
    (tag("", A_JSON, ["."]), ['{"a": 3}.'], ['{"a": 3}']),
    (triggered(), ["", "text", F, f"so {F} and {G}{G} then", "<t no"], ["<t=", "<t=f>abc</t>", "<t=h>", "<t=g></t>"]),
    (triggered(at_least_one=True), [F, f"{G} then {F}."], ["", f"so {F}"]),
    (triggered(stop_after_first=True), ["text", f"so {F}"], [f"{F} more", f"{F}{G}"]),
    (triggered(at_least_one=True, stop_after_first=True), [F, G], ["", f"{F}{F}"]),
    (triggered(excludes=["bad"]), [f"good {F}", "b a d"], ["bad", f"bad {F}", f"{F} bad"]),
    (separated(), ["", F, f"{F}; {G}; {F}"], [f"{F}{G}", f"{F};", "text"]),
    (separated(at_least_one=True), [F, f"{G}; {G}"], [""]),
    (separated(stop_after_first=True), ["", G], [f"{G}; {G}"]),
    (
        tag("<r>", triggered(), "</r>"),
        ["<r></r>", f"<r>so {F} then</r>"],
        ["<r>", f"<r>{F}", "<r></r> ", "<r><t=x></r>"],
    ),
    (
        {"type": "sequence", "elements": [tag("<r>", ANY, "</r>"), triggered(stop_after_first=True)]},
        ["<r>hm</r>", f"<r>hm</r> so {G}"],
        [G, f"<r>hm</r>{G}."],
    ),
]


@pytest.mark.parametrize(
    ("given", "good", "bad"), TABLE, ids=[f"{n} {each[0]['type']}" for n, each in enumerate(TABLE)]
)
def test_what_a_tree_takes(given: dict[str, Any], good: list[str], bad: list[str]) -> None:
    format_ = built(given)
    source = source_of(format_)
    assert [text for text in good if not VOCABULARY.allows(source, text)] == []
    assert [text for text in bad if VOCABULARY.allows(source, text)] == []
    assert [text for text in (*good, *bad) if whole(format_, text) is not (text in good)] == [], (
        "the reader below agrees"
    )


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"type": "sequence", "elements": [ANY, const("a")]}, ".elements[0]"),
        ({"type": "star", "content": ANY}, ".content"),
        ({"type": "sequence", "elements": [tag("<u>", ANY, ""), const("a")]}, ".elements[0]"),
        (tag("<u>", const("a"), ["", "b"]), ".end"),
        (triggered(tags=[tag("<x>", const("a"), "b")]), ".tags[0].begin"),
        (triggered(tags=[tag("<t=a>", ANY, "")]), ".tags[0].content"),
        (triggered(triggers=["<", "<t="]), ".triggers[0]"),
        (tag("<r>", triggered(triggers=["<", "<t="]), "</r>"), ".content.triggers[0]"),
    ],
)
def test_what_has_no_grammar_is_told_by_its_place(given: dict[str, Any], path: str) -> None:
    with pytest.raises(NotWritableError) as raised:
        formats_grammar(built(given))
    assert raised.value.path == path


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"type": "regex", "pattern": "a\\"}, "format.pattern"),
        ({"type": "regex", "pattern": "a\0"}, "format.pattern"),
        ({"type": "repeat", "min": 2, "max": 1, "content": const("x")}, "format.max"),
        ({"type": "or", "elements": [const("a"), {"type": "json_schema", "json_schema": {"not": {}}}]}, None),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(given: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        built(given)
    assert raised.value.param == (param or "format.elements[1].json_schema.not")


# --- random trees ---


def random_tree(draw: random.Random, depth: int) -> tree.Format:
    if depth == 0 or draw.random() < 0.2:
        leaves = [
            tree.Text(draw.choice(["a", "b1", "<u>", "no"])),
            tree.Pattern(regex_rule("[a-c]{1,3}")),
            tree.Json(draw.choice([OBJECT, {"type": "boolean"}])),
            tree.OwnGrammar(YES),
            tree.AnyText(draw.choice([(), ("1",)])),
        ]
        return draw.choice(leaves)
    inner = [random_tree(draw, depth - 1) for _ in range(draw.randint(1, 3))]
    tags = tuple(
        tree.Tagged(f"<t{draw.choice('=>')}{n}", each, draw.choice([("</t>",), ("END", "</t>"), ("",)]))
        for n, each in enumerate(inner)
    )
    flags = {"at_least_one": draw.random() < 0.5, "stop_after_first": draw.random() < 0.5}
    return draw.choice(
        [
            tree.Sequenced(tuple(inner)),
            tree.Either(tuple(inner)),
            tree.Repeated(inner[0], draw.randint(0, 1), draw.choice([None, 1, 2])),
            tags[0],
            tree.Triggered(("<t",), tags, **flags, excludes=draw.choice([(), ("c",)])),
            tree.Separated(tags, draw.choice([",", "; "]), **flags),
        ]
    )


def test_answers_by_random_trees_are_read_as_such() -> None:
    ended = written = 0
    for seed in range(70):
        draw = random.Random(seed)
        format_ = random_tree(draw, 3)
        try:
            source = source_of(format_)
        except NotWritableError:
            continue
        written += 1
        for _ in range(2):
            if (answer := VOCABULARY.random_answer(source, draw, 60)) is not None:
                ended += 1
                assert whole(format_, answer), (format_, answer)
    assert written > 15 and ended > 15


def whole(format_: tree.Format, text: str) -> bool:
    return len(text) in set(read(format_, text, 0, None))


def read(format_: tree.Format, text: str, start: int, ends: tree.Ends) -> Iterator[int]:
    """Where the format, with one of ``ends`` behind it, may end that begins there."""
    match format_:
        case tree.AnyText(excludes=excludes):
            yield from free(text, start, (), excludes, ends)
        case tree.Triggered():
            yield from read_triggered(format_, text, start, ends)
        case tree.Sequenced(elements=elements):
            places = {start}
            for one in elements[:-1]:
                places = {end for place in places for end in read(one, text, place, ())}
            for place in places:
                yield from read(elements[-1], text, place, ends)
        case tree.Either(elements=elements):
            for one in elements:
                yield from read(one, text, start, ends)
        case tree.Tagged(begin=begin, content=content, ends=own):
            if text.startswith(begin, start):
                inner = own if any(own) else ends if tree.is_open(content) else ()
                for end in read(content, text, start + len(begin), inner):
                    yield from [end] if inner is ends else after(text, end, ends)
        case tree.Repeated(content=content, least=least, most=most) if not tree.is_open(content):
            for end in times(lambda at: read(content, text, at, ()), start, least, most):
                yield from after(text, end, ends)
        case tree.Repeated(content=content):
            yield from read(content, text, start, ends)
            yield from after(text, start, ends)
        case tree.Separated():
            yield from read_separated(format_, text, start, ends)
        case _:
            for end in range(start, len(text) + 1):
                if is_leaf(format_, text[start:end]):
                    yield from after(text, end, ends)


def is_leaf(format_: tree.Format, text: str) -> bool:
    match format_:
        case tree.Text(value=value):
            return text == value
        case tree.Pattern(rule=rule):
            return re.fullmatch(rule[1:-1].replace("\\/", "/"), text) is not None
        case tree.OwnGrammar(source=source):
            return text in {YES: ("yes", "no")}.get(source, ("xz",))
        case tree.Json(schema=schema):
            try:
                jsonschema.validate(json.loads(text), schema)
            except (ValueError, jsonschema.ValidationError):
                return False
            return text == text.rstrip()  # white space may stand before it as between its parts
    raise AssertionError(format_)


def after(text: str, at: int, ends: tree.Ends) -> Iterator[int]:
    for end in ends or ("",):
        if text.startswith(end, at):
            yield at + len(end)


def times(once: Any, start: int, least: int, most: int | None) -> set[int]:
    reached, places = {start} if least == 0 else set(), {start}
    for count in range(1, (most or 50) + 1):
        places = {end for place in places for end in once(place)}
        reached |= places if count >= least else set()
    return reached


def free(text: str, start: int, never: Any, excludes: Any, ends: tree.Ends) -> Iterator[int]:
    """Text without any of ``never``, up to the first of the ends, or to the end of all."""
    stops = [*never, *(ends or ())]
    for at in range(start, len(text) + 1):
        found = [stop for stop in stops if text.endswith(stop, start, at)]
        for stop in {*found} & {*(ends or ())}:
            if not any(each in text[start : at - len(stop)] for each in excludes):
                yield at
        if found:
            return
    if not ends and not any(each in text[start:] for each in excludes):
        yield len(text)


def read_triggered(given: tree.Triggered, text: str, start: int, ends: tree.Ends) -> Iterator[int]:
    places, seen = {start}, set()
    if given.at_least_one:
        places = {end for tag in given.tags for end in read(tag, text, start, ())}
        if given.stop_after_first:
            for place in places:
                yield from after(text, place, ends)
            return
    while places:
        place = places.pop()
        seen.add(place)
        yield from free(text, place, given.triggers, given.excludes, ends)
        for tag in given.tags:
            (trigger,) = (each for each in given.triggers if tag.begin.startswith(each))
            for at in free(text, place, (*given.triggers, *(ends or ())), given.excludes, (trigger,)):
                rest = tree.Tagged(tag.begin[len(trigger) :], tag.content, tag.ends)
                found = set(read(rest, text, at, ()))
                if given.stop_after_first:
                    for end in found:
                        yield from after(text, end, ends)
                else:
                    places |= found - seen


def read_separated(given: tree.Separated, text: str, start: int, ends: tree.Ends) -> Iterator[int]:
    def tags(at: int) -> set[int]:
        return {end for tag in given.tags for end in read(tag, text, at, ())}

    def more(at: int) -> set[int]:
        return tags(at + len(given.separator)) if text.startswith(given.separator, at) else set()

    found = tags(start)
    if not given.stop_after_first:
        found = {end for place in found for end in times(more, place, 0, None)}
    for end in found if given.at_least_one else found | {start}:
        yield from after(text, end, ends)
