"""Bytes → request: strict JSON, strict types, and what becomes of fields that are not known."""

from __future__ import annotations

import json

import pytest

from gateway.errors import InvalidRequest, UnknownParameter
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import CompletionRequest
from gateway.protocol.json_body import NotAcceptedError, decode
from gateway.protocol.limits import Limits
from gateway.protocol.parse import parse

LIMITS = Limits(max_json_depth=32)
HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'"\xff"',
        b"NaN",
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"user": "\\ud800"}',
        b"{'messages': []}",
        b'{"messages": [],}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"1" * 10_000,
    ],
)
def test_what_is_no_strict_json_is_refused(body):
    with pytest.raises(NotAcceptedError):
        decode(body, LIMITS)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth_is_bounded(opening):
    closing = b"]" if opening == b"[" else b"}"
    assert decode(opening * 32 + b"1" + closing * 32, LIMITS)
    with pytest.raises(NotAcceptedError, match=r"33 levels deep .* at most 32 are allowed here"):
        decode(opening * 33 + b"1" + closing * 33, LIMITS)


def test_brackets_in_text_are_not_depth():
    assert decode(json.dumps({"text": "[" * 1000}).encode(), LIMITS) == {"text": "[" * 1000}


@pytest.mark.parametrize(
    "body", [[[]] * 100_000, {str(number): 1 for number in range(100_001)}, [{"a": 1}] * 50_001, [[[[]]]] * 40_000]
)
def test_the_number_of_parts_is_bounded(body):
    with pytest.raises(NotAcceptedError, match="at most 100000 are allowed here"):
        decode(json.dumps(body).encode(), LIMITS)


@pytest.mark.parametrize(
    "body", [{"text": '[{":\\\\"' * 100_000}, [5] * 200_000, [[]] * 99_999, {"a": ["{", '\\"[', "\n:"] * 40_000}]
)
def test_text_and_token_ids_may_be_long(body):
    assert decode(json.dumps(body).encode(), LIMITS) == body


@pytest.mark.parametrize("body", [b'"' * 200_001, b'"\\' * 200_001, b'{"a' + b":" * 200_000, b'["' + b"[\\" * 200_000])
def test_broken_strings_take_no_time(body):
    with pytest.raises(NotAcceptedError):
        decode(body, LIMITS)


def test_a_wide_body_is_not_deep():
    assert decode(json.dumps([[1]] * 1000).encode(), Limits(max_json_depth=2))


@pytest.mark.parametrize("body", ["[]", "null", "3", '"text"'])
def test_a_body_is_an_object(body):
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        parse(ChatCompletionRequest, body.encode(), Limits())


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"])
def test_an_integer_is_a_number(field):
    request, _ = parse(ChatCompletionRequest, json.dumps({"messages": HI, field: 1}).encode(), Limits())
    assert getattr(request, field) == 1.0


def test_null_means_left_out():
    optional = [name for name, field in ChatCompletionRequest.model_fields.items() if not field.is_required()]
    body = dict.fromkeys([*optional, *ChatCompletionRequest.unsupported]) | {"messages": HI}
    request, _ = parse(ChatCompletionRequest, json.dumps(body).encode(), Limits())
    assert request == parse(ChatCompletionRequest, json.dumps({"messages": HI}).encode(), Limits())[0]


@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_unknown_fields_may_be_passed_over(policy):
    body = {
        "foo": 1,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "bar": 2}], "baz": 3}] * 2,
        "stream": True,
        "stream_options": {"include_usage": True, "qux": 4},
    }
    request, passed_over = parse(ChatCompletionRequest, json.dumps(body).encode(), Limits(unknown_fields=policy))
    assert sorted(passed_over) == ["foo", "messages[].baz", "messages[].content[].bar", "stream_options.qux"]
    assert request.stream_usage


def test_an_unsupported_field_is_refused_whatever_is_done_with_unknown_ones():
    body = json.dumps({"messages": HI, "store": True}).encode()
    with pytest.raises(InvalidRequest, match="completions are not stored"):
        parse(ChatCompletionRequest, body, Limits(unknown_fields="ignore"))


@pytest.mark.parametrize(
    ("field", "nearest"),
    [("max_token", "max_tokens"), ("temprature", "temperature"), ("guided_jsn", "guided_json"), ("xyzzy", None)],
)
def test_the_nearest_known_field_is_suggested(field, nearest):
    with pytest.raises(UnknownParameter) as caught:
        parse(ChatCompletionRequest, json.dumps({"messages": HI, field: 1}).encode(), Limits())
    hint = f" Did you mean '{nearest}'?" if nearest else ""
    assert caught.value.message == f"Unknown parameter: '{field}'.{hint}"


def test_a_long_unknown_name_is_cut():
    with pytest.raises(UnknownParameter) as caught:
        parse(ChatCompletionRequest, json.dumps({"x" * 100_000: 1}).encode(), Limits())
    assert len(caught.value.message) < 200


def test_a_name_with_braces_is_told_as_it_is():
    with pytest.raises(UnknownParameter, match=r"Unknown parameter: '{field}'"):
        parse(ChatCompletionRequest, json.dumps({"{field}": 1}).encode(), Limits())


def test_a_number_without_a_fraction_is_an_integer():
    fields = {"n": 2.0, "seed": -1.0, "stop_token_ids": [5.0, 6], "max_tokens": 3.0, "top_logprobs": 1.0}
    request, _ = parse(ChatCompletionRequest, json.dumps({"messages": HI, **fields}).encode(), Limits())
    assert [getattr(request, name) for name in fields] == [2, -1, [5, 6], 3, 1]
    assert type(request.n) is int and set(map(type, request.stop_token_ids)) == {int}
    for prompt in ([5.0, 6], [[5.0], [6]]):
        completion, _ = parse(CompletionRequest, json.dumps({"prompt": prompt}).encode(), Limits())
        assert completion.prompt == prompt and all(type(each) is int for ids in completion.token_lists for each in ids)
    for wrong in ({"n": 2.5}, {"n": "2"}, {"n": True}, {"stop_token_ids": [5.5]}, {"n": 1e300, "seed": 1e300}):
        with pytest.raises(InvalidRequest):
            parse(ChatCompletionRequest, json.dumps({"messages": HI, **wrong}).encode(), Limits())
    with pytest.raises(InvalidRequest):
        parse(CompletionRequest, b'{"prompt": [5.5]}', Limits())
