"""What one streamed token costs the gateway: ``python -m benchmarks.gateway_cost``.

Engine frames are made beforehand; each step's frame is decoded, folded, and written as server-sent events by the
production classes: once to an ASGI ``send`` that does nothing, and once through uvicorn to clients in another process.
The floor is sse-starlette alone in the same place, woken as often, sending bytes that were made beforehand.
Times are CPU time of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import uvicorn
import uvloop
from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from engine.demo_model import PATH
from engine.messages import EngineInfo, StepOutput, Tokens, decode_from_engine, encode
from engine.sampling_params import SamplingParams
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.request import Request
from gateway.completion.sse import EventStreamResponse
from gateway.protocol.answer import AnswerOptions, Envelope
from gateway.protocol.chat_answer import ChatStream
from gateway.tokenizer import Tokenizer
from observability.records import EngineState, StepStats

SCOPE = {"type": "http", "method": "POST", "asgi": {"version": "3.0", "spec_version": "2.4"}}
TEXT = "It was a quiet morning in the valley, and the water ran through the penstock at a steady, measured rate. "


OpenOne: TypeAlias = Callable[[int], EventSourceResponse]

READER = """
import selectors, socket, sys
port, streams = map(int, sys.argv[1:])
selector = selectors.DefaultSelector()
for _ in range(streams):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n")
    selector.register(connection, selectors.EVENT_READ)
while streams:
    for key, _ in selector.select():
        if not key.fileobj.recv(65536):
            selector.unregister(key.fileobj)
            streams -= 1
"""


class Arrivals:
    """For each stream, whether its newest chunk has been handed on."""

    def __init__(self, streams: int) -> None:
        self._events = [asyncio.Event() for _ in range(streams)]

    def watching(self, number: int, send: Send) -> Send:
        event = self._events[number]

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                event.set()

        return watched

    async def all(self) -> None:
        """Until every stream has had a chunk since the last time."""
        for event in self._events:
            await event.wait()
            event.clear()


@contextlib.asynccontextmanager
async def nowhere(streams: int, open_one: OpenOne) -> AsyncIterator[Arrivals]:
    """Responses that are called as an HTTP server would, and whose clients take everything and never leave."""
    arrivals = Arrivals(streams)

    async def send(_: Message) -> None:
        pass

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    tasks = [
        asyncio.ensure_future(open_one(number)(SCOPE, receive, arrivals.watching(number, send)))
        for number in range(streams)
    ]
    yield arrivals
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def over_http(streams: int, open_one: OpenOne) -> AsyncIterator[Arrivals]:
    """Responses of a real server whose clients read as fast as they can in a process of their own."""
    arrivals = Arrivals(streams)
    numbers = itertools.count()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        number = next(numbers)
        await open_one(number)(scope, receive, arrivals.watching(number, send))

    with socket.create_server(("127.0.0.1", 0), backlog=streams) as listener:
        config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        port = str(listener.getsockname()[1])
        reader = await asyncio.create_subprocess_exec(sys.executable, "-c", READER, port, str(streams))
        yield arrivals
        reader.kill()
        await reader.wait()
        server.should_exit = True
        await serving


Place: TypeAlias = Callable[[int, OpenOne], AbstractAsyncContextManager[Arrivals]]


def engine_info(vocab_size: int) -> EngineInfo:
    return EngineInfo(
        device="none",
        dtype="none",
        parameters=0,
        weight_bytes=0,
        max_model_len=0,
        block_size=16,
        num_blocks=0,
        cache_bytes=0,
        vocab_size=vocab_size,
        eos_token_ids=[],
        fingerprint="none",
        kernels={},
        load_seconds={},
    )


def frames(ids: list[int], streams: int, steps: int) -> list[bytes]:
    """One frame a step, with a token for every stream."""
    stats = StepStats(
        step=1,
        duration=0.01,
        scheduled_tokens=streams,
        prompt_tokens=0,
        generated_tokens=streams,
        state=EngineState(running=streams, waiting=0, blocks_used=0, blocks_total=1),
        preemptions=0,
        prefix_queries=0,
        prefix_hits=0,
    )
    return [
        encode(
            StepOutput(
                started=[],
                outputs=[
                    Tokens(id=f"r{stream}:0", attempt=1, at=step, ids=[ids[(step + stream) % len(ids)]])
                    for stream in range(streams)
                ],
                stats=[stats],
            )
        )
        for step in range(steps)
    ]


async def drive(arrivals: Arrivals, steps: int, step: Callable[[int], None]) -> float:
    """CPU seconds in which every stream got its chunk of every step."""
    began = time.process_time()
    for number in range(steps):
        step(number)
        await arrivals.all()
    return time.process_time() - began


async def gateway(place: Place, streams: int, steps: int, stop: tuple[str, ...]) -> float:
    """Microseconds for each token."""
    tokenizer = Tokenizer.load(PATH)
    lifecycle = Lifecycle(tokenizer, record=lambda _, *, replica="0": None)
    lifecycle.up(0, 1, engine_info(tokenizer.vocab_size), lambda _: None)
    prepared = frames(tokenizer.encode(TEXT, add_special_tokens=False), streams, steps)
    params = (SamplingParams(max_tokens=steps + 1),)

    def open_one(number: int) -> EventSourceResponse:
        stream = lifecycle.submit(
            Request(id=f"r{number}", tenant="default", prompts=([1],), params=params, seed=0, stop=stop)
        )
        envelope = Envelope(id=f"chatcmpl-{number:032}", created=0, model="demo", system_fingerprint="none")
        answer = ChatStream(envelope, AnswerOptions(prompts=([1],)), tokenizer)

        async def body() -> AsyncIterator[bytes]:
            yield answer.opening()
            async for events in stream:
                if frame := answer.feed(events):
                    yield frame

        return EventStreamResponse(body(), on_end=stream.cancel)

    def step(number: int) -> None:
        message = decode_from_engine(prepared[number])
        assert isinstance(message, StepOutput)
        lifecycle.receive(0, 1, message)

    async with place(streams, open_one) as arrivals:
        await arrivals.all()
        seconds = await drive(arrivals, steps, step)
        lifecycle.close()
    return seconds / streams / steps * 1e6


async def floor(place: Place, streams: int, steps: int) -> float:
    """The same for sse-starlette alone."""
    chunk = b"data: " + b"x" * 250 + b"\n\n"
    waiting: list[asyncio.Future[None]] = []

    def open_one(_: int) -> EventSourceResponse:
        async def body() -> AsyncIterator[bytes]:
            while True:
                yield chunk
                waiter = asyncio.get_running_loop().create_future()
                waiting.append(waiter)
                await waiter

        return EventSourceResponse(body())

    def step(_: int) -> None:
        woken = waiting.copy()
        waiting.clear()
        for waiter in woken:
            waiter.set_result(None)

    async with place(streams, open_one) as arrivals:
        await arrivals.all()
        seconds = await drive(arrivals, steps, step)
    return seconds / streams / steps * 1e6


async def measure(streams: int, steps: int, rounds: int) -> None:
    """Rounds of all in turn, so that all see the same machine; the median of each is printed."""
    kinds: dict[str, Callable[[], Awaitable[float]]] = {
        "gateway": lambda: gateway(nowhere, streams, steps, ()),
        "gateway, two stop strings": lambda: gateway(nowhere, streams, steps, ("###", "\n\nUser:")),
        "sse-starlette alone": lambda: floor(nowhere, streams, steps),
        "gateway, over HTTP": lambda: gateway(over_http, streams, steps, ()),
        "sse-starlette, over HTTP": lambda: floor(over_http, streams, steps),
    }
    results: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            results[name].append(await kind())
    print(f"{streams} streams, {steps} tokens each, median of {rounds} rounds (lowest, highest), CPU µs per token")
    for name, values in results.items():
        print(f"  {name:<28}{statistics.median(values):7.1f}   ({min(values):.1f}, {max(values):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    uvloop.run(measure(options.streams, options.steps, options.rounds))


if __name__ == "__main__":
    main()
