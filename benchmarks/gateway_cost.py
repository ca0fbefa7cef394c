"""What one streamed token costs the gateway: ``python -m benchmarks.gateway_cost``.

Engine frames are made beforehand; each step's frame is decoded, folded, and written as server-sent events by the
production classes to an ASGI ``send`` that does nothing. The floor is sse-starlette alone, woken as often, sending
bytes that were made beforehand. Times are CPU time of this process; sockets and the HTTP server are not in them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvloop
from sse_starlette import EventSourceResponse

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


class Client:
    """The other side of one response: notices what is sent, never leaves, sends nothing."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self._never = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._never.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.arrived.set()


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
                stats=stats,
            )
        )
        for step in range(steps)
    ]


async def drive(clients: list[Client], steps: int, step: Callable[[int], None]) -> float:
    """CPU seconds in which every client got its chunk of every step."""
    began = time.process_time()
    for number in range(steps):
        step(number)
        await _all_served(clients)
    return time.process_time() - began


async def responses(open_one: Callable[[int], EventSourceResponse], clients: list[Client]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.ensure_future(_call(open_one(n), client)) for n, client in enumerate(clients)]
    await _all_served(clients)
    return tasks


async def _all_served(clients: list[Client]) -> None:
    for client in clients:
        await client.arrived.wait()
        client.arrived.clear()


def _call(response: EventSourceResponse, client: Client) -> Awaitable[None]:
    return response(SCOPE, client.receive, client.send)


async def gateway(streams: int, steps: int, stop: tuple[str, ...]) -> float:
    """Microseconds for each token."""
    tokenizer = Tokenizer.load(PATH)
    lifecycle = Lifecycle(tokenizer, record=lambda _: None)
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

    clients = [Client() for _ in range(streams)]
    tasks = await responses(open_one, clients)

    def step(number: int) -> None:
        message = decode_from_engine(prepared[number])
        assert isinstance(message, StepOutput)
        lifecycle.receive(0, 1, message)

    seconds = await drive(clients, steps, step)
    lifecycle.close()
    await asyncio.gather(*tasks)
    return seconds / streams / steps * 1e6


async def floor(streams: int, steps: int) -> float:
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

    clients = [Client() for _ in range(streams)]
    tasks = await responses(open_one, clients)

    def step(_: int) -> None:
        woken = waiting.copy()
        waiting.clear()
        for waiter in woken:
            waiter.set_result(None)

    seconds = await drive(clients, steps, step)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seconds / streams / steps * 1e6


async def measure(streams: int, steps: int, rounds: int) -> None:
    """Rounds of the three in turn, so that all see the same machine; the median of each is printed."""
    kinds: dict[str, Callable[[], Awaitable[float]]] = {
        "gateway": lambda: gateway(streams, steps, ()),
        "gateway, two stop strings": lambda: gateway(streams, steps, ("###", "\n\nUser:")),
        "sse-starlette alone": lambda: floor(streams, steps),
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
