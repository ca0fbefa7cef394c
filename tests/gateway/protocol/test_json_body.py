"""What is said of a body that is no JSON, is too much of it, or says something twice: what, and where."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.protocol.json_body import decode_object, decode_text
from gateway.protocol.json_place import first_named_twice, line_and_column, path_at
from gateway.protocol.limits import Limits

SMALL = Limits(max_json_parts=20, max_json_depth=8)


def refusal(body: bytes, limits: Limits = SMALL) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        decode_object(body, limits)
    return raised.value


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", None, "it ends too early at line 1, column 1"),
        (b'{"a": 1', "a", "it ends too early at line 1, column 8, in 'a'"),
        (b'{\n  "temperature": NaN}', "temperature", "invalid character at line 2, column 18, in 'temperature'"),
        (b"{'a': 1}", None, "object keys must be strings at line 1, column 2"),
        (b'{"a": 1,}', None, "trailing comma in object at line 1, column 9"),
        (b'{"a": [1, {"b": tru}]}', "a[1].b", "in 'a[1].b'"),
        (b'{"a": [1, {"b": 2}, 3 4]}', "a[2]", "expected ',' or ']' at line 1, column 23, in 'a[2]'"),
        (b'{"a": {"b": "\xff"}}', "a.b", "a byte that is no UTF-8 at line 1, column 14, in 'a.b'"),
        (b'{"a": 1, "b": {"c": "\\ud800"}}', "b.c", "half a surrogate pair at line 1, column 22, in 'b.c'"),
        (b'{"a": 1, "b": [1e999]}', "b", "a number is too large, in 'b'"),
        (b'{"b": ' + b"1" * 5000 + b"}", "b", "a number is too large, in 'b'"),
        (b'{"a": "\\q"}', "a", "invalid escape character in string at line 1, column 10, in 'a'"),
        (b"{} {}", None, "trailing characters at line 1, column 4"),
    ],
)
def test_what_is_no_json_and_where(body, param, words):
    error = refusal(body)
    assert (error.param, error.code) == (param, "invalid_json")
    assert words in error.message and error.message.startswith("The request body is not valid JSON: ")
    for word in ("byte 1", "codec", "$", "malformed"):
        assert word not in error.message


def test_too_many_parts_and_too_deep_ones_are_told_by_value_limit_and_flag():
    error = refusal(json.dumps({"a": 1, "logit_bias": {str(n): 0 for n in range(40)}, "b": []}).encode())
    assert (error.param, error.code) == ("logit_bias", "too_many_parts")
    assert "has 46 arrays, objects and members, most of them in 'logit_bias'; at most 20" in error.message
    assert "--max-json-parts" in error.message
    error = refusal(b'{"x": 1, "a": [0, ' + b"[" * 9 + b"]" * 9 + b"]}")
    assert (error.param, error.code) == ("a[1]" + "[0]" * 6, "too_deep")
    assert "is nested 11 levels deep at 'a[1]" in error.message and "at most 8" in error.message
    assert "--max-json-depth" in error.message
    assert refusal(b"[" * 15 + b"]" * 15).param is not None
    assert "--max-json-depth" in refusal(b"[" * 90_000, Limits()).message


def test_of_a_member_that_holds_json_as_text_the_place_is_within_that():
    with pytest.raises(InvalidRequest) as raised:
        decode_text('{"type": "object", "properties": {"a": }}', "structured_outputs.json", SMALL)
    assert raised.value.param == "structured_outputs.json"
    assert "invalid character at line 1, column 40, in 'properties.a'" in raised.value.message


@pytest.mark.parametrize(
    ("body", "param", "at"),
    [
        (b'{"a": 1, "a": 1}', "a", "column 10"),
        (b'{"a": 1, "\\u0061": 2}', "a", "column 10"),
        (b'{"m": [{"role": "a"}, {"role": "x", "content": "role: role", "role": "y"}]}', "m[1].role", "column 62"),
        (b'{"": 1, "b": {"c": {}}, "": 2}', None, "column 25"),
        (b'{"a": {"b:": ":", "b:": 2}}', "a.b:", "column 19"),
    ],
)
def test_what_is_said_twice_is_refused(body, param, at):
    error = refusal(body)
    assert (error.param, error.code) == (param, "named_twice")
    assert f"again at line 1, {at}" in error.message


def test_the_same_name_in_several_objects_or_in_text_is_no_repetition():
    body = {"a": {"a": [{"a": 1}, {"a": 1}]}, "b": '{"a": 1, "a": 2}, \\"a\\":', "c": ["a", "a:"]}
    assert decode_object(json.dumps(body).encode(), SMALL) == body


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('a":,{[\\é\n', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab":\\', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.data())
def test_paths_lead_to_what_stands_there(value, data):
    """A marker is put somewhere into any JSON; the path to it leads there, and names once each are not twice."""
    places = [(), *_places(value, ())]
    place = data.draw(st.sampled_from(places))
    text = json.dumps(_with(value, place, "MARK"), indent=data.draw(st.sampled_from([None, 1]))).encode()
    offset = text.index(b'"MARK"')
    assert path_at(text, offset) == tuple(part for part in place if part != "")
    assert first_named_twice(text) is None
    decode_object(b'{"v": ' + text + b"}", Limits())
    line, column = (int(part.split()[-1]) for part in line_and_column(text, offset).split(","))
    assert text.splitlines()[line - 1][column - 1 :].startswith(b'"MARK"')


@given(st.lists(st.text("ab\\", max_size=2), min_size=1, max_size=5), st.booleans())
def test_names_are_twice_exactly_where_they_are(names, deep):
    text = "{" + ", ".join(f"{json.dumps(name)}: [1]" for name in names) + "}"
    body = (f'{{"v": [0, {text}]}}' if deep else text).encode()
    if len(set(names)) == len(names):
        assert decode_object(body, Limits()) == msgspec.json.decode(body)
    else:
        assert refusal(body, Limits()).code == "named_twice"


def _places(value: Any, path: tuple[int | str, ...]) -> list[tuple[int | str, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in items for place in ((*path, key), *_places(each, (*path, key)))]


def _with(value: Any, path: tuple[int | str, ...], new: Any) -> Any:
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = _with(value[path[0]], path[1:], new)
    return changed
