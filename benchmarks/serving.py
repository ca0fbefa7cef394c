"""How fast a server answers: many streaming requests at a time, random prompts of a fixed length.

    make bench                                          the demo model, on a server that this starts and stops
    make bench ARGS="--concurrency 32 --serve 'DIR --dtype float32'"
    make bench ARGS="--url http://127.0.0.1:8000"       a server that runs already

Prompts are token ids drawn from a fixed seed, so no two share a prefix and every run sends the same work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

SMALLEST_ID, LARGEST_ID = 100, 1000
"""Token ids of prompts: in every vocabulary, and above the special tokens that most begin with."""


@dataclass(slots=True)
class Answer:
    """One request's course. Seconds since it was sent."""

    first_token: float | None = None
    gaps: list[float] = field(default_factory=list)
    """Between successive chunks."""
    duration: float = 0.0
    tokens: int = 0


async def ask(client: httpx.AsyncClient, prompt: list[int], output_tokens: int) -> Answer:
    """Send one request and read its stream to the end. Raises where the answer is not a success."""
    body = {
        "prompt": prompt,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer, sent = Answer(), time.perf_counter()
    last = sent
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.is_error:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread()).decode()[:300]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            if chunk.get("usage"):
                answer.tokens = chunk["usage"]["completion_tokens"]
            if chunk["choices"]:
                now = time.perf_counter()
                if answer.first_token is None:
                    answer.first_token = now - sent
                else:
                    answer.gaps.append(now - last)
                last = now
    answer.duration = time.perf_counter() - sent
    return answer


async def load(url: str, prompts: Sequence[list[int]], concurrency: int, output_tokens: int) -> list[Answer]:
    """Send every prompt, ``concurrency`` of them at a time."""
    places = asyncio.Semaphore(concurrency)
    limits = httpx.Limits(max_connections=concurrency)

    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def one(prompt: list[int]) -> Answer:
            async with places:
                return await ask(client, prompt, output_tokens)

        return list(await asyncio.gather(*map(one, prompts)))


def random_prompts(count: int, length: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(SMALLEST_ID, LARGEST_ID) for _ in range(length)] for _ in range(count)]


@contextmanager
def server(arguments: str) -> Iterator[str]:
    """Run ``penstock serve`` with ``arguments`` on a free port; gives its URL once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from gateway.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "serve",
        *shlex.split(arguments),
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _is_ready(url):
            if process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=1).is_success
    except httpx.TransportError:
        return False


def summarize(answers: Sequence[Answer], seconds: float, prompt_tokens: int) -> dict[str, Any]:
    """Rates in tokens a second, latencies in milliseconds."""
    generated = sum(answer.tokens for answer in answers)
    first = [answer.first_token for answer in answers if answer.first_token is not None]
    gaps = [gap for answer in answers for gap in answer.gaps]
    return {
        "requests": len(answers),
        "seconds": seconds,
        "output tokens/s": generated / seconds,
        "prompt and output tokens/s": (generated + prompt_tokens * len(answers)) / seconds,
        "time to first token, ms": _percentiles(first),
        "inter-token latency, ms": _percentiles(gaps),
        "request, ms": _percentiles([answer.duration for answer in answers]),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"p50": 1000 * sum(seconds), "p99": 1000 * sum(seconds)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": 1000 * cuts[49], "p99": 1000 * cuts[98]}


def show(result: dict[str, Any]) -> None:
    table = Table("", "p50", "p99")
    for name, value in result.items():
        cells = [value["p50"], value["p99"]] if isinstance(value, dict) else [value]
        table.add_row(name, *(f"{cell:,.1f}" for cell in cells))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="a server that runs already")
    where.add_argument("--serve", default="", metavar="ARGS", help="arguments of penstock serve, MODEL among them")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print JSON rather than a table")
    options = parser.parse_args()

    def measure(url: str) -> dict[str, Any]:
        warm_up, *prompts = random_prompts(options.requests + 1, options.prompt_tokens)
        asyncio.run(load(url, [warm_up], 1, 4))
        began = time.perf_counter()
        answers = asyncio.run(load(url, prompts, options.concurrency, options.output_tokens))
        return summarize(answers, time.perf_counter() - began, options.prompt_tokens)

    if options.url:
        result = measure(options.url)
    else:
        with server(options.serve) as url:
            result = measure(url)
    print(json.dumps(result)) if options.json else show(result)


if __name__ == "__main__":
    main()
