"""Mixed load for a long run: many kinds of requests, each of which must always get the same answer."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

LONGEST_WAIT = 2.0
"""Seconds before a request that was refused is followed by the next."""
REPORTED = 20
"""Failures that are told in words."""


@dataclass(frozen=True)
class Kind:
    """A request and how it is read."""

    name: str
    path: str
    body: dict[str, Any]

    @property
    def key(self) -> str:
        return json.dumps([self.path, self.body], sort_keys=True)


def draw_kinds(rng: random.Random, count: int) -> list[Kind]:
    """Streams and whole answers, chat and plain, greedy and sampled, several choices, stop strings, log-probabilities,
    long prompts and prompts that share a beginning. The lengths suit a small model with a context of 2,048 tokens."""
    shared = "The keeper of the sluice writes down every hour what he has seen. " * 12
    makers = [
        lambda n, seed: ("chat", {"messages": _ask(f"Count from {n} to {n + 40}."), "max_tokens": 160, "stream": True}),
        lambda n, seed: ("chat", {"messages": _ask(f"Tell a story of {n} stones."), "max_tokens": 60, "n": 3}),
        lambda n, seed: (
            "chat",
            {
                "messages": _ask(f"What is {n} plus {seed % 90}?"),
                "max_tokens": 80,
                "stream": True,
                "logprobs": True,
                "top_logprobs": 2,
                "stop": ["7", "stop"],
            },
        ),
        lambda n, seed: ("plain", {"prompt": f"{shared}{n}.", "max_tokens": 90, "stream": True, "ignore_eos": True}),
        lambda n, seed: ("plain", {"prompt": [f"One {n}", f"Two {n}"], "max_tokens": 30}),
        lambda n, seed: (
            "plain",
            {"prompt": [100 + (n * each) % 900 for each in range(1, 700)], "max_tokens": 200, "stream": True},
        ),
    ]
    paths = {"chat": "/v1/chat/completions", "plain": "/v1/completions"}
    kinds = []
    for number in range(count):
        seed = rng.randrange(2**31)
        which, body = makers[number % len(makers)](rng.randrange(1, 90), seed)
        body |= {"seed": seed, "temperature": rng.choice([0.0, 0.8, 1.0])}
        kinds.append(Kind(f"{which} {number % len(makers)}", paths[which], body))
    return kinds


def _ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@dataclass
class Outcomes:
    counts: Counter[str] = field(default_factory=Counter)
    """``same`` (as before, or the first), ``changed``, ``left`` (the client went away), ``told off`` (a bad request),
    ``refused`` (429 or 503) and ``failed``."""
    failures: list[str] = field(default_factory=list)
    """The first of them, and of the changed answers, in words."""
    answers: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, why: str = "") -> None:
        self.counts[what] += 1
        if why and len(self.failures) < REPORTED:
            self.failures.append(f"{what}: {why[:500]}")


class Load:
    """Clients that each send one request after the other. ``pause`` and ``go_on`` in turns; ``stop`` at the end."""

    def __init__(self, url: str, clients: int, seed: int, pool: int) -> None:
        self._url = url
        self._rng = random.Random(seed)
        self._kinds = draw_kinds(self._rng, pool)
        self._gate = asyncio.Event()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes = Outcomes()

    def start(self, client: httpx.AsyncClient) -> None:
        self._gate.set()
        self._tasks = [asyncio.create_task(self._serve(client)) for _ in range(self._clients)]

    async def pause(self) -> None:
        """Returns when no request is under way."""
        self._gate.clear()
        await self._idle.wait()

    def go_on(self) -> None:
        self._gate.set()

    async def stop(self) -> None:
        """Raises what a client has run into."""
        await self.pause()
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _serve(self, client: httpx.AsyncClient) -> None:
        while True:
            await self._gate.wait()
            self._under_way += 1
            self._idle.clear()
            try:
                await self._one(client)
            finally:
                self._under_way -= 1
                if not self._under_way:
                    self._idle.set()

    async def _one(self, client: httpx.AsyncClient) -> None:
        kind, dice = self._rng.choice(self._kinds), self._rng.random()
        leaves_after = self._rng.randrange(1, 12) if dice < 0.1 and kind.body.get("stream") else None
        body = kind.body | ({"max_tokens": -1} if dice > 0.97 else {})
        try:
            async with client.stream("POST", self._url + kind.path, json=body) as response:
                if response.status_code in (429, 503):
                    self.outcomes.note("refused")
                    await asyncio.sleep(min(LONGEST_WAIT, float(response.headers["retry-after-ms"]) / 1000))
                elif body is not kind.body and body["max_tokens"] == -1:
                    told = response.status_code == 400
                    self.outcomes.note("told off" if told else "failed", "" if told else f"{response.status_code}")
                elif response.status_code != 200:
                    self.outcomes.note("failed", f"{kind.name}: {response.status_code} {(await response.aread())!r}")
                elif leaves_after is not None:
                    await self._leave(response.aiter_lines(), leaves_after)
                else:
                    self._compare(kind, await answer_of(response))
        except (httpx.HTTPError, ValueError) as error:
            self.outcomes.note("failed", f"{kind.name}: {type(error).__name__}: {error}")

    async def _leave(self, lines: AsyncIterator[str], after: int) -> None:
        async for _ in lines:
            after -= 1
            if not after:
                break
        self.outcomes.note("left")

    def _compare(self, kind: Kind, answer: str) -> None:
        expected = self.outcomes.answers.setdefault(kind.key, answer)
        if expected == answer:
            self.outcomes.note("same")
        else:
            self.outcomes.note("changed", f"{kind.name}: {answer!r} where it was {expected!r}")


async def answer_of(response: httpx.Response) -> str:
    """What must not change of an answer: each choice's text, log-probabilities and finish reason, and the usage of
    one that is not a stream. Raises ValueError for a stream without its proper end."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        body = json.loads(await response.aread())
        usage = {name: body["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
        return json.dumps([[_part(choice, "message") for choice in body["choices"]], usage])
    parts: dict[int, list[Any]] = {}
    done = False
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data:"):
            event = json.loads(line[5:])
            if "error" in event:
                raise ValueError(f"an error in mid-stream: {event['error']}")
            for choice in event["choices"]:
                text, scores, finish = _part(choice, "delta")
                known = parts.setdefault(choice["index"], ["", [], None])
                known[0] += text
                known[1] += scores
                known[2] = finish or known[2]
    if not done or any(finish is None for *_, finish in parts.values()):
        raise ValueError("a stream ended without a finish reason or [DONE]")
    return json.dumps([parts[index] for index in sorted(parts)])


def _part(choice: dict[str, Any], message: str) -> tuple[str, list[Any], str | None]:
    """(text, log-probabilities of its tokens, finish reason)."""
    text = choice["text"] if "text" in choice else choice[message].get("content")
    scores = (choice.get("logprobs") or {}).get("content") or []
    return text or "", [[score["token"], score["logprob"]] for score in scores], choice["finish_reason"]
