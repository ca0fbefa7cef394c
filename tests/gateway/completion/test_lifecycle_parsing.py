"""An engine is lost in the middle of a tool call: the stream goes on as if it had not been."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_for_tests import EOS, FakeEngine, ManualClock, Records, ids_of, make_request
from tokenizers_for_tests import byte_level

from gateway.completion.events import Completed, Delta
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.parser import Parsing
from gateway.completion.stream import Stream, merged

TEXT = '<think>Hm</think>So.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
IDS = [*ids_of(TEXT), EOS]
REQUEST = replace(make_request(), parsing=Parsing(tool_format="hermes", reasoning_format="think"))


async def everything(stream: Stream) -> tuple[Delta, Completed]:
    events = [event async for some in stream for event in some]
    delta, completed = merged(events)
    assert isinstance(delta, Delta) and isinstance(completed, Completed)
    return delta, completed


def begin() -> tuple[Lifecycle, FakeEngine, Stream]:
    lifecycle = Lifecycle(byte_level(), record=Records(), clock=ManualClock())
    engine = FakeEngine(lifecycle)
    return lifecycle, engine, lifecycle.submit(REQUEST)


async def undisturbed() -> tuple[Delta, Completed]:
    _, engine, stream = begin()
    engine.say("r:0", 0, *IDS, finish="stop")
    return await everything(stream)


async def test_reasoning_content_and_call() -> None:
    delta, completed = await undisturbed()
    assert (delta.reasoning, delta.text, delta.finish_reason) == ("Hm", "So.", "tool_calls")
    assert [(call.name, call.arguments) for call in delta.calls] == [("f", '{"a": 1}')]
    assert completed.usage.completion_tokens == len(IDS)
    assert completed.usage.reasoning_tokens == len(ids_of("<think>Hm</think>"))


@pytest.mark.parametrize("lost_after", range(1, len(IDS)))
async def test_a_loss_in_the_middle_changes_nothing(lost_after: int) -> None:
    lifecycle, engine, stream = begin()
    engine.say("r:0", 0, *IDS[:lost_after])
    engine.lose()
    again = FakeEngine(lifecycle, epoch=2)
    assert again.start("r:0").output_prefix == IDS[:lost_after]
    again.say("r:0", lost_after, *IDS[lost_after:], attempt=2, finish="stop")
    assert await everything(stream) == await undisturbed()
