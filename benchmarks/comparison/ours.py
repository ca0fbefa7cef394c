"""What is measured on our server alone: its start, and whether company changes an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from benchmarks import processes
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.serving import PENSTOCK
from gateway.load.prompts import Lengths, Prompt, PromptMaker

ANSWER_TOKENS = 24
Ask = Callable[[Prompt], Awaitable[Any]]


def demo_start(logs: Path) -> float:
    """Seconds from the start of ``penstock serve``, which serves the demo model, to the end of a first answer."""
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}"
    log = logs / "demo.log"
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    # An installation has its byte code, and a checkout has it from its second start on.
    environment = {"PYTHONDONTWRITEBYTECODE": ""}
    with httpx.Client(timeout=60, trust_env=False) as client:
        began = time.perf_counter()
        with processes.run([*PENSTOCK, "--port", str(port)], log, environment) as process:
            processes.wait_until_ready(process, f"{url}/ready", log, 120)
            client.post(f"{url}/v1/chat/completions", json=body).raise_for_status()
            return time.perf_counter() - began


def identity(models: Path, logs: Path, seed: int) -> dict[str, int]:
    """Six greedy answers with log-probabilities: alone, again when their prefix is cached, and among eighteen others.

    Company comes on a second server, whose cache knows none of the prompts. Returns how many were compared, and how
    many differ in a token or a bit of a log-probability.
    """
    model = models / "S"
    maker = PromptMaker(Tokenizer.from_file(str(model / "tokenizer.json")), seed)
    prompts = maker.make(6, Lengths.parse("40-300"))
    others = maker.make(18, Lengths.parse("8-400"))

    async def alone(answer: Ask) -> list[list[Any]]:
        return [[await answer(prompt) for prompt in prompts] for _ in range(2)]

    async def in_company(answer: Ask) -> list[list[Any]]:
        answers = await asyncio.gather(*map(answer, [*others[:9], *prompts, *others[9:]]))
        return [list(answers[9 : 9 + len(prompts)])]

    runs = [run for ask in (alone, in_company) for run in _answers(model, logs, ask)]
    differing = sum(len({repr(one) for one in answers}) > 1 for answers in zip(*runs, strict=True))
    return {"compared": len(prompts), "differing": differing}


def _answers(model: Path, logs: Path, ask_all: Callable[[Ask], Awaitable[list[list[Any]]]]) -> list[list[Any]]:
    """What ``ask_all`` gets from a server of its own."""
    contender = CONTENDERS["penstock"]
    port = processes.free_port()
    url, log = f"http://127.0.0.1:{port}", logs / "identity.log"

    async def run() -> list[list[Any]]:
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:

            async def answer(prompt: Prompt) -> Any:
                options = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 2}
                body = {"model": str(model), "prompt": list(prompt.ids), **options}
                response = await client.post("/v1/completions", json=body)
                return response.raise_for_status().json()["choices"][0]["logprobs"]

            return await ask_all(answer)

    with processes.run(contender.command(model, port), log) as process:
        processes.wait_until_ready(process, url + contender.ready, log, 120)
        return asyncio.run(run())
