"""Many different requests at once: each gets what it would have got alone, and nothing is left held."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from engine.demo_model import PATH

PHRASES = [
    "Tell me a short story.",
    "What is Penstock?",
    "What is 17 plus 25?",
    "Count from 3 to 12.",
    'Spell "banana".',
    "Which month comes after May?",
    "What is the capital of France?",
    "Give me a JSON object with a name and an age.",
    "My name is Ada. What can you do?",
]


def mixed_requests(count: int) -> list[dict[str, Any]]:
    """Greedy, seeded sampling, penalties, stops, n=3 and logprobs in turn, with prompts of 10 to 400 tokens."""
    rng = random.Random(5)
    requests = []
    for i in range(count):
        history = " ".join(rng.choice(PHRASES) for _ in range(rng.choice([1, 1, 2, 12, 30])))
        request: dict[str, Any] = {
            "model": "demo",
            "messages": [{"role": "user", "content": history + " " + rng.choice(PHRASES)}],
            "max_tokens": rng.choice([8, 24, 48]),
            "temperature": 0,
        }
        match i % 6:
            case 1:
                request |= {"temperature": 1.0, "seed": i, "top_p": 0.9}
            case 2:
                request |= {
                    "temperature": 0.8, "seed": i, "presence_penalty": 0.5, "frequency_penalty": 0.4,
                    "extra_body": {"repetition_penalty": 1.2, "top_k": 40, "ignore_eos": True},
                }  # fmt: skip
            case 3:
                request |= {"stop": [" a", "er"], "extra_body": {"min_tokens": 4}}
            case 4:
                request |= {"temperature": 1.3, "seed": i, "n": 3, "extra_body": {"min_p": 0.02}}
            case 5:
                request |= {"logprobs": True, "top_logprobs": 2, "logit_bias": {"40": 2.5}}
        requests.append(request)
    return requests


def essence(answer: Any) -> list[tuple[Any, ...]]:
    """What must be equal, token for token."""
    return [
        (c.index, c.message.content, c.finish_reason, c.logprobs and [t.token for t in c.logprobs.content])
        for c in answer.choices
    ] + [(answer.usage.prompt_tokens, answer.usage.completion_tokens)]


async def ask_all(server: Any, requests: list[dict[str, Any]], at_once: int) -> list[Any]:
    gate = asyncio.Semaphore(at_once)
    async with server.async_client() as client:

        async def one(request: dict[str, Any]) -> Any:
            async with gate:
                return await client.chat.completions.create(**request)

        return await asyncio.gather(*[one(r) for r in requests])


async def test_64_at_once_equal_64_alone(server):
    requests = mixed_requests(64)
    together = await ask_all(server, requests, at_once=64)
    alone = await ask_all(server, requests, at_once=1)
    different = [i for i, (a, b) in enumerate(zip(together, alone, strict=True)) if essence(a) != essence(b)]
    assert not different, [(requests[i], essence(together[i]), essence(alone[i])) for i in different[:2]]
    server.wait_idle()


@pytest.mark.slow
async def test_a_quarter_of_the_cache_completes_by_preemption(server, start_server):
    requests = [r | {"max_tokens": 120} for r in mixed_requests(48)]
    for request in requests:
        request["extra_body"] = request.get("extra_body", {}) | {"ignore_eos": True, "min_tokens": 100}
        request.pop("stop", None)
    enough = await ask_all(server, requests, at_once=48)
    # 66 sequences (one request in six has three choices) of about 300 tokens want about 20,000 tokens of cache.
    config = json.loads((PATH / "config.json").read_text())
    token_bytes = config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * config["head_dim"] * 4
    arguments = ("--dtype", "float32", "--max-num-seqs", "64", "--kv-cache-memory", str(5000 * token_bytes))
    with start_server(*arguments) as small:
        scarce = await ask_all(small, requests, at_once=48)
        assert small.metric("penstock_preemptions_total") > 0
        small.wait_idle()
        assert small.metric("penstock_kv_cache_usage_ratio") == 0
    assert [essence(a) for a in scarce] == [essence(a) for a in enough]
