"""Where the body of a whole answer is made."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fastapi import Request
from http_for_tests import scored
from tokenizers_for_tests import byte_level

from gateway.completion.events import Completed, Delta, PromptScored, Usage
from gateway.completion.stream import Stream
from gateway.protocol.answer import AnswerOptions, Envelope
from gateway.protocol.completion_answer import CompletionBody, CompletionStream
from gateway.respond import streamed, whole


class Watched(CompletionBody):
    """Remembers which thread made its body."""

    made_in: threading.Thread | None = None

    def body(self) -> bytes:
        self.made_in = threading.current_thread()
        return super().body()


class WatchedStream(CompletionStream):
    """The same of each prompt that was scored."""

    made_in: threading.Thread | None = None

    def scored(self, event: PromptScored) -> bytes:
        self.made_in = threading.current_thread()
        return super().scored(event)


async def never_leaves():
    await asyncio.Event().wait()


def scored_prompt(tokens: int) -> tuple[AnswerOptions, Envelope, Stream]:
    options = AnswerOptions(prompts=([5] * tokens,), logprobs=True, echo=("x" * tokens,))
    envelope, stream = Envelope(id="cmpl-1", created=0, model="m", system_fingerprint="f"), Stream(lambda: None)
    stream.push(PromptScored(0, [scored(5, 6) for _ in range(tokens - 1)]))
    stream.push(Delta(index=0, text="", tokens=[], finish_reason="length"))
    stream.push(Completed(Usage(tokens, 0, 0)))
    stream.close()
    return options, envelope, stream


@pytest.mark.parametrize(("tokens", "on_the_loop"), [(100, True), (5000, False)])
async def test_a_body_with_many_scores_is_made_off_the_event_loop(tokens, on_the_loop):
    """Tens of thousands of them take seconds, in which no stream would go on."""
    options, envelope, stream = scored_prompt(tokens)
    answer = Watched(envelope, options, byte_level())
    response = await whole(Request({"type": "http"}, never_leaves), stream, answer)
    assert len(response.body) > tokens
    assert (answer.made_in is threading.current_thread()) == on_the_loop


@pytest.mark.parametrize(("tokens", "on_the_loop"), [(100, True), (5000, False)])
async def test_a_chunk_with_many_scores_is_made_off_the_event_loop(tokens, on_the_loop):
    options, envelope, stream = scored_prompt(tokens)
    answer = WatchedStream(envelope, options, byte_level())
    response = await streamed(
        Request({"type": "http"}, never_leaves),
        stream,
        answer,
        keep_alive=60,
        abandon=lambda: None,
        ended=lambda: None,
    )
    sent = b"".join([frame async for frame in response.body_iterator])
    assert len(sent) > tokens and sent.endswith(b"data: [DONE]\n\n")
    assert (answer.made_in is threading.current_thread()) == on_the_loop
