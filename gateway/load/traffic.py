"""When requests are sent: a closed loop, an open loop, or streams that long prompts interrupt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from gateway.load.client import Request

Result = TypeVar("Result")
Send = Callable[[Request], Awaitable[Result]]
SendAndTell = Callable[[Request, Callable[[], None]], Awaitable[Result]]
"""Calls the second argument at the answer's first text."""


async def closed_loop(send: Send[Result], requests: Sequence[Request], concurrency: int) -> list[Result]:
    """``concurrency`` requests are under way at any time: one that ends is followed by the next."""
    results: dict[int, Result] = {}
    waiting = iter(enumerate(requests))

    async def client() -> None:
        for number, request in waiting:
            results[number] = await send(request)

    await asyncio.gather(*(client() for _ in range(min(concurrency, len(requests)))))
    return [results[number] for number in range(len(requests))]


def poisson_arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds after the start at which requests arrive: gaps are exponential, with a mean of 1 / ``rate``."""
    rng, at = random.Random(seed), 0.0
    return [at := at + rng.expovariate(rate) for _ in range(count)]


async def open_loop(send: Send[Result], requests: Sequence[Request], arrivals: Sequence[float]) -> list[Result]:
    """Each request is sent at its time, however many are under way."""
    began = time.perf_counter()

    async def one(request: Request, at: float) -> Result:
        await asyncio.sleep(began + at - time.perf_counter())
        return await send(request)

    return list(await asyncio.gather(*map(one, requests, arrivals)))


async def interrupted(
    send: SendAndTell[Result], streams: Sequence[Request], late: Sequence[Request], every: float
) -> tuple[list[Result], list[Result]]:
    """All ``streams`` at once; when each has its first text, ``late`` requests follow, one in ``every`` seconds."""
    begun = asyncio.Semaphore(0)
    running = [asyncio.ensure_future(send(request, begun.release)) for request in streams]
    over = asyncio.gather(*running)

    async def all_begun() -> None:
        for _ in streams:
            await begun.acquire()

    beginning = asyncio.ensure_future(all_begun())
    # A stream that fails never begins; then the late ones are sent when all streams are over.
    both: list[asyncio.Future[Any]] = [over, beginning]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    beginning.cancel()

    async def one(number: int, request: Request) -> Result:
        await asyncio.sleep(number * every)
        return await send(request, lambda: None)

    results = await asyncio.gather(*(one(number, request) for number, request in enumerate(late)))
    return list(await over), list(results)
