"""When requests are sent."""

import asyncio
import statistics
from collections.abc import Callable

import pytest

from gateway.load.client import Request
from gateway.load.prompts import Prompt
from gateway.load.traffic import closed_loop, interrupted, open_loop, poisson_arrivals


def requests(count: int) -> list[Request]:
    return [Request(Prompt((number,), None), 1) for number in range(count)]


def number_of(request: Request) -> int:
    return request.prompt.ids[0]


async def test_a_closed_loop_keeps_so_many_under_way_and_answers_in_order() -> None:
    under_way, most = 0, 0

    async def send(request: Request) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001 * (5 - number_of(request) % 5))
        under_way -= 1
        return number_of(request)

    assert await closed_loop(send, requests(20), 4) == list(range(20))
    assert most == 4


async def test_an_open_loop_waits_for_nobody() -> None:
    under_way, most = 0, 0

    async def send(request: Request) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        under_way -= 1
        return number_of(request)

    assert await open_loop(send, requests(10), [0.001 * number for number in range(10)]) == list(range(10))
    assert most == 10


def test_arrivals_are_poisson() -> None:
    arrivals = poisson_arrivals(4000, rate=5.0, seed=0)
    gaps = [b - a for a, b in zip([0.0, *arrivals], arrivals, strict=False)]
    assert min(gaps) >= 0
    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.05)
    # An exponential distribution's standard deviation is its mean.
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.08)
    assert arrivals == poisson_arrivals(4000, rate=5.0, seed=0)


async def test_late_requests_wait_until_all_streams_have_begun() -> None:
    log: list[str] = []

    async def send(request: Request, begun: Callable[[], None]) -> int:
        number = number_of(request)
        log.append(f"sent {number}")
        await asyncio.sleep(0.01 * (number + 1))
        log.append(f"begun {number}")
        begun()
        await asyncio.sleep(0.1)
        return number

    streams, late = requests(5)[:3], requests(5)[3:]
    assert await interrupted(send, streams, late, every=0.01) == ([0, 1, 2], [3, 4])
    assert log.index("sent 3") > max(log.index(f"begun {number}") for number in range(3))
    assert log.index("sent 3") < log.index("sent 4")


async def test_streams_that_never_begin_end_the_wait() -> None:
    async def send(request: Request, _: Callable[[], None]) -> int:
        return number_of(request)

    async with asyncio.timeout(5):
        assert await interrupted(send, requests(2), requests(1), every=0.0) == ([0, 1], [0])
