"""A stream with reasoning and tool calls may be resumed from any event: what was missed is sent, and nothing twice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from http_for_tests import events_of
from tokenizers_for_tests import byte_level

from engine.sampling_params import SamplingParams
from gateway.completion.events import Delta
from gateway.completion.fold import folds_of
from gateway.completion.parser import Parsing
from gateway.completion.request import Request
from gateway.protocol.answer import AnswerOptions, Envelope
from gateway.protocol.chat_answer import ChatStream
from gateway.protocol.event_ids import EventIds

TEXT = '<think>Hm é</think>So.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call> <tool_call>{"name": "g"}'
IDS = byte_level().encode(TEXT, add_special_tokens=False)
REQUEST = Request(
    id="r",
    tenant="default",
    prompts=([5],),
    params=(SamplingParams(max_tokens=len(IDS)),),
    seed=1,
    parsing=Parsing(tool_format="hermes", reasoning_format="think"),
)
ENVELOPE = Envelope(id="c", created=1, model="m", system_fingerprint="f")


def deltas(sizes: list[int]) -> list[Delta]:
    (fold,) = folds_of(REQUEST, byte_level(), [1])
    found, at = [], 0
    for size in sizes:
        found.append(fold.feed(IDS[at : at + size]))
        at += size
    return [delta for delta in found if delta is not None]


def said(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the chunks say, joined as clients do."""
    whole: dict[str, Any] = {"reasoning": "", "content": "", "calls": {}, "finish": []}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        whole["reasoning"] += choice["delta"].get("reasoning_content", "")
        whole["content"] += choice["delta"].get("content", "")
        for call in choice["delta"].get("tool_calls", []):
            known = whole["calls"].setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
            known["id"] += call.get("id", "")
            for member, piece in call["function"].items():
                known[member] += piece
        whole["finish"] += [choice["finish_reason"]] if choice["finish_reason"] else []
    return whole


def chunks_of(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(event) for event in events_of(text.decode())] if text else []


@pytest.mark.parametrize("reasoning", [True, False])
def test_whatever_was_the_last_event_that_was_seen(reasoning: bool) -> None:
    options = AnswerOptions(prompts=([5],), reasoning=reasoning)
    stream = ChatStream(ENVELOPE, options, byte_level(), mode="body")
    chunks = chunks_of(stream.opening() + stream.feed(deltas([1] * len(IDS))))
    whole = said(chunks)
    assert whole["finish"] == ["length"] and whole["content"].startswith("So.") and whole["calls"][0]["name"] == "f"
    assert len(chunks) > 10
    for at, chunk in enumerate(chunks):
        seen = EventIds.parse(chunk["event_id"], 1, "id")
        (first,) = seen.num_tokens
        sizes = [first, 3, len(IDS)]
        rest = ChatStream(ENVELOPE, replace(options), byte_level(), mode="body", seen=seen)
        more = chunks_of(rest.opening() + rest.feed(deltas(sizes)))
        assert said([*chunks[: at + 1], *more]) == whole, f"resumed after {chunk['event_id']}"


def test_a_request_is_kept_with_how_its_text_is_parsed() -> None:
    parsing = Parsing(tool_format="glm", in_reasoning=True, single_call=True, schemas={"f": {"a": "string"}})
    request = replace(REQUEST, parsing=parsing)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request) == request
