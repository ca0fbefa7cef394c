from __future__ import annotations

import asyncio

import pytest

from gateway.completion.events import CallDelta, Completed, Delta, OutputToken, PromptScored, Usage
from gateway.completion.stream import Stream
from gateway.errors import InternalError

DONE = Completed(Usage(1, 2, 0))


def delta(index: int, text: str, finish: str | None = None) -> Delta:
    return Delta(index=index, text=text, tokens=[OutputToken(ord(text[-1]), None)], finish_reason=finish)


async def test_a_slow_reader_gets_the_deltas_of_each_choice_merged_in_order() -> None:
    stream = Stream(lambda: None)
    scored = PromptScored(0, [])
    for event in (
        scored,
        delta(1, "a"),
        delta(0, "x"),
        delta(1, "b"),
        delta(1, "c", "stop"),
        delta(0, "y", "length"),
        DONE,
    ):
        stream.push(event)
    stream.close()
    first, one, zero, last = await anext(stream)
    assert (first, last) == (scored, DONE)
    assert one == Delta(index=1, text="abc", tokens=[OutputToken(ord(c), None) for c in "abc"], finish_reason="stop")
    assert (zero.index, zero.text, zero.finish_reason) == (0, "xy", "length")
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_merging_keeps_what_ended_the_choice() -> None:
    stream, end = Stream(lambda: None), OutputToken(1, None)
    stream.push(delta(0, "a"))
    stream.push(Delta(index=0, text="", tokens=[], finish_reason="stop", stop_tokens=[end]))
    (merged,) = await anext(stream)
    assert isinstance(merged, Delta) and (merged.text, merged.stop_tokens) == ("a", [end])


async def test_merging_joins_reasoning_and_each_call() -> None:
    stream = Stream(lambda: None)
    for text, reasoning, calls in (
        ("", "a", ()),
        ("", "b", (CallDelta(0, "id0", "f", "{"),)),
        ("t", "", (CallDelta(0, None, None, "1"), CallDelta(1, "id1", "g"))),
        ("u", "", (CallDelta(1, None, None, "}"),)),
    ):
        stream.push(Delta(index=0, text=text, tokens=[], reasoning=reasoning, calls=calls))
    (merged,) = await anext(stream)
    assert isinstance(merged, Delta)
    assert (merged.text, merged.reasoning) == ("tu", "ab")
    assert merged.calls == (CallDelta(0, "id0", "f", "{1"), CallDelta(1, "id1", "g", "}"))


async def test_what_was_ready_comes_before_the_error() -> None:
    stream = Stream(lambda: None)
    stream.push(delta(0, "a"))
    stream.fail(InternalError("broken"))
    assert len(await anext(stream)) == 1
    for _ in range(2):
        with pytest.raises(InternalError, match="broken"):
            await anext(stream)


async def test_waiting_may_be_cancelled_without_a_loss() -> None:
    stream = Stream(lambda: None)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.ready(), 0.001)
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.push(delta(0, "a"))
    stream.push(delta(0, "b"))
    assert [event.text for event in await reading] == ["ab"]


async def test_deltas_wait_for_the_scores_of_their_prompt() -> None:
    """One choice scores the prompt for its siblings, and these may be ahead of it."""
    stream, scored = Stream(lambda: None, unscored=[0, 1], n=2), [PromptScored(at, []) for at in (0, 1)]
    stream.push(delta(1, "a"))
    stream.push(delta(2, "b"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.ready(), 0.001)
    stream.push(scored[1])
    stream.push(delta(3, "c"))
    assert [getattr(event, "text", event) for event in await anext(stream)] == [scored[1], "b", "c"]
    stream.push(delta(1, "d", "stop"))
    stream.push(scored[0])
    stream.push(delta(0, "e"))
    assert [getattr(event, "text", event) for event in await anext(stream)] == [scored[0], "ad", "e"]


async def test_what_waits_for_scores_comes_at_the_end_of_a_request_that_was_cancelled() -> None:
    stream = Stream(lambda: None, unscored=[0], n=2)
    for event in (delta(0, "a"), delta(0, "b", "abort"), delta(1, "c", "abort"), DONE):
        stream.push(event)
    stream.close()
    assert [getattr(event, "text", event) for event in await anext(stream)] == ["ab", "c", DONE]
