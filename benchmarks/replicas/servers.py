"""Prefix routing over real engine processes, through HTTP: how much of a prompt its replica has cached already.

    python -m benchmarks.replicas.servers
    python -m benchmarks.replicas.servers MODEL --replicas 2 --conversations 16 --cache 1GiB

Conversations go on at the same time, each turn after a pause; a prompt is all that was said before and a message more.
Compared are one replica with all the cache, and several that have it in equal parts, with prefix routing and with
random routing. Prompts are token ids and answers have a fixed length, so every run looks up the same number of tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from benchmarks import processes, serving
from benchmarks.replicas.conversations import Conversation, Shape
from benchmarks.replicas.report import Outcome, print_table
from gateway.setting_groups import parse_size

VOCABULARY = range(100, 1000)


class Talk:
    """The workload against one server."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._client = client
        self.first_token: list[float] = []
        """Seconds, of each request."""

    async def hold(self, conversation: Conversation) -> None:
        """From its first message to its last answer. Raises where a request fails."""
        while not conversation.over:
            await asyncio.sleep(conversation.pause())
            prompt, answer = conversation.ask()
            conversation.hear([token async for token in self._answer(prompt, answer)])

    async def _answer(self, prompt: list[int], length: int) -> Any:
        body = {"prompt": prompt, "max_tokens": length, "ignore_eos": True, "temperature": 0}
        body |= {"stream": True, "return_token_ids": True}
        began, waiting = time.perf_counter(), True
        async with self._client.stream("POST", f"{self._url}/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise RuntimeError((await response.aread()).decode())
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    for token in choice.get("token_ids") or ():
                        if waiting:
                            self.first_token.append(time.perf_counter() - began)
                            waiting = False
                        yield token


async def talk(url: str, conversations: Sequence[Conversation]) -> tuple[float, float]:
    """(seconds until all is said, mean seconds to a first token)."""
    began = time.perf_counter()
    # The server closes a connection that has been idle for 5 seconds; one that is taken up at that moment fails.
    limits = httpx.Limits(keepalive_expiry=2)
    async with httpx.AsyncClient(timeout=600, trust_env=False, limits=limits) as client:
        talk = Talk(url, client)
        await asyncio.gather(*map(talk.hold, conversations))
    return time.perf_counter() - began, sum(talk.first_token) / len(talk.first_token)


def samples(url: str, name: str) -> Iterator[Sample]:
    """Of one metric of a server."""
    text = httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
    for family in text_string_to_metric_families(text):
        yield from (sample for sample in family.samples if sample.name == f"penstock_{name}")


def wait_until_all_are_up(url: str, limit: float = 600.0) -> None:
    """The server is ready for requests once its first replica is. Raises RuntimeError."""
    end = time.monotonic() + limit
    while True:
        answer = httpx.get(f"{url}/ready", timeout=60, trust_env=False).json()
        if answer["replicas_up"] == answer["replicas"]:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{answer['replicas_up']} of {answer['replicas']} replicas are up after {limit:g} s")
        time.sleep(0.1)


def measure(name: str, url: str, conversations: Sequence[Conversation], replicas: int) -> Outcome:
    seconds, first_token = asyncio.run(talk(url, conversations))
    sent, reasons = Counter[str](), Counter[str]()
    for sample in samples(url, "routed_total"):
        sent[sample.labels["replica"]] += int(sample.value)
        reasons[sample.labels["reason"]] += int(sample.value)
    return Outcome(
        name=name,
        queries=int(sum(sample.value for sample in samples(url, "prefix_cache_queries_total"))),
        hits=int(sum(sample.value for sample in samples(url, "prefix_cache_hits_total"))),
        by_replica=tuple(sent[str(replica)] for replica in range(replicas)),
        reasons=reasons,
        seconds=seconds,
        first_token=first_token,
    )


def compare(options: argparse.Namespace, shape: Shape, folder: Path) -> list[Outcome]:
    outcomes = []
    for number, routing in ((1, "prefix"), (options.replicas, "prefix"), (options.replicas, "random")):
        name = "1 replica" if number == 1 else f"{number} replicas, {routing}"
        arguments = [*([options.model] if options.model else []), *options.serve.split()]
        arguments += ["--replicas", str(number), "--routing", routing]
        arguments += ["--kv-cache-memory", str(options.cache // number)]
        conversations = [Conversation(each, shape, options.seed, VOCABULARY) for each in range(shape.conversations)]
        with serving.server(arguments, folder / f"{number}-{routing}.log") as url:
            wait_until_all_are_up(url)
            outcomes.append(measure(name, url, conversations, number))
    return outcomes


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="what to serve (default: the demo model)")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--cache", type=parse_size, default="96MiB", metavar="SIZE", help="of all replicas together")
    parser.add_argument("--serve", default="", metavar="ARGS", help="more arguments of penstock serve")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--system", type=int, default=64, help="tokens of a beginning that all share")
    parser.add_argument("--message", type=int, default=48, help="mean tokens of a message")
    parser.add_argument("--answer", type=int, default=32, help="mean tokens of an answer")
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds between an answer and the next message")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Outcome]:
    options = parse(arguments)
    processes.end_at_signals()
    shape = Shape(**{name: getattr(options, name) for name in Shape.__dataclass_fields__})
    with tempfile.TemporaryDirectory() as folder:
        outcomes = compare(options, shape, Path(folder))
    print_table(f"{shape.conversations} conversations of {shape.turns} turns over HTTP", outcomes)
    for outcome in outcomes:
        print(f"{outcome.name}: routed by {dict(outcome.reasons)}")
    return outcomes


if __name__ == "__main__":
    main()
