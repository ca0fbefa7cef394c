"""What resuming costs the gateway for each streamed token: ``python -m benchmarks.journal_cost``.

As ``benchmarks.gateway_cost`` (engine frames that were made beforehand, written as server-sent events to nowhere), for
a plain stream, for one that may be resumed, and for one that a durable journal holds as well. Times are CPU time of
this process, the journal's thread included. A message is what the engine says of one choice at once: tokens of 20 ms.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, TypeAlias

import uvloop
from sse_starlette import EventSourceResponse

from benchmarks.gateway_cost import TEXT, drive, engine_info, nowhere
from engine.demo_model import PATH
from engine.messages import StepOutput, Tokens, decode_from_engine, encode
from engine.sampling_params import SamplingParams
from gateway.completion.durable import DurableJournal
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.recording import Reader
from gateway.completion.request import Request
from gateway.completion.sse import EventStreamResponse
from gateway.completion.stream import Stream
from gateway.completion.streams import Streams
from gateway.protocol.answer import AnswerOptions, Envelope, StreamAnswer
from gateway.protocol.chat_answer import ChatStream
from gateway.protocol.form import Form
from gateway.tokenizer import Tokenizer
from observability.records import JournalCommit, Record

Kind: TypeAlias = Literal["plain", "resumable", "durable"]


class Run:
    """One measurement: streams of one kind, and what their journal did."""

    def __init__(self, kind: Kind, streams: int, messages: int, per_message: int, folder: Path) -> None:
        self.kind, self.streams, self.messages, self.per_message = kind, streams, messages, per_message
        self.commits: list[JournalCommit] = []
        self.file = folder / "journal"
        self.tokenizer = Tokenizer.load(PATH)
        self.lifecycle = Lifecycle(self.tokenizer, record=lambda _, *, replica="0": None)
        journal = DurableJournal(self.file, record=self._record) if kind == "durable" else None
        self.resumable = Streams(self.lifecycle, self.tokenizer, journal=journal)
        self.resumable.open_journal()
        self.lifecycle.up(0, 1, engine_info(self.tokenizer.vocab_size), lambda _: None)

    def _record(self, record: Record) -> None:
        if isinstance(record, JournalCommit):
            self.commits.append(record)

    def frames(self) -> list[bytes]:
        """One a step, with a message for every stream."""
        ids = self.tokenizer.encode(TEXT, add_special_tokens=False)
        size = self.per_message
        made = []
        for step in range(self.messages):
            tokens = [ids[(step * size + n) % len(ids)] for n in range(size)]
            outputs = [Tokens(id=f"r{n}:0", attempt=1, at=step * size, ids=tokens) for n in range(self.streams)]
            made.append(encode(StepOutput(started=[], outputs=outputs, stats=[])))
        return made

    def open_one(self, number: int) -> EventSourceResponse:
        tokens = self.messages * self.per_message
        params = (SamplingParams(max_tokens=tokens + 1),)
        request = Request(id=f"r{number}", tenant="default", prompts=([1],), params=params, seed=0)
        envelope = Envelope(id=f"chatcmpl-{number:032}", created=0, model="demo", system_fingerprint="none")
        options = AnswerOptions(prompts=([1],))
        stream: Stream | Reader
        answer: StreamAnswer
        if self.kind == "plain":
            stream, answer = self.lifecycle.submit(request), ChatStream(envelope, options, self.tokenizer)
        else:
            form = Form(mode="sse", kind=ChatStream.object_name, envelope=envelope, options=options)
            recording = self.resumable.submit(request, key=b"", form=form.encode(), on_end=lambda: None)
            stream, answer = recording.read([0]), form.answer(request.prompts, self.tokenizer)

        async def body() -> AsyncIterator[bytes]:
            yield answer.opening()
            async for events in stream:
                if frame := answer.feed(events):
                    yield frame

        return EventStreamResponse(body(), on_end=stream.cancel)

    async def measure(self) -> float:
        """CPU microseconds for each token."""
        prepared = self.frames()

        def step(number: int) -> None:
            message = decode_from_engine(prepared[number])
            assert isinstance(message, StepOutput)
            self.lifecycle.receive(0, 1, message)

        async with nowhere(self.streams, self.open_one) as arrivals:
            await arrivals.all()
            seconds = await drive(arrivals, self.messages, step)
        self.lifecycle.close()
        await self.resumable.close()
        return seconds / (self.streams * self.messages * self.per_message) * 1e6


async def measure(streams: int, messages: int, per_message: int, rounds: int) -> None:
    """Rounds of all in turn, so that all see the same machine; the median of each is printed."""
    kinds: tuple[Kind, ...] = ("plain", "resumable", "durable")
    results: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    durations: list[float] = []
    entries: list[int] = []
    size = 0
    for _ in range(rounds):
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                run = Run(kind, streams, messages, per_message, Path(folder))
                results[kind].append(await run.measure())
                if kind == "durable":
                    size = run.file.stat().st_size
                    durations += [commit.duration for commit in run.commits]
                    entries += [commit.entries for commit in run.commits]
    print(f"{streams} streams, {messages} messages of {per_message} tokens each, median of {rounds} rounds")
    for kind, values in results.items():
        print(f"  {kind:<12}{statistics.median(values):7.2f} CPU µs per token   ({min(values):.2f}, {max(values):.2f})")
    tokens = streams * messages * per_message
    print(f"  a commit: {statistics.median(durations) * 1e6:.0f} µs for {statistics.mean(entries):.1f} messages")
    print(f"  the file: {size / tokens:.1f} bytes per token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--per-message", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    uvloop.run(measure(options.streams, options.messages, options.per_message, options.rounds))


if __name__ == "__main__":
    main()
