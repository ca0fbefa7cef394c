"""Many different streams of the real openai client at the same time, and all that must not change of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

STREAMS = 32
TOKENS = 350
"""Of each choice, but for those that end at a stop string."""


@dataclass
class Heard:
    """One stream so far."""

    text: dict[int, str] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[Any]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    usage: tuple[int, int] | None = None
    arrivals: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return max(map(len, self.ids.values()), default=0)

    @property
    def in_mid_output(self) -> bool:
        return self.tokens > 0 and self.usage is None

    def everything(self) -> tuple[Any, ...]:
        return self.text, self.ids, self.logprobs, self.finish, self.usage


def request(number: int, tokens: int) -> tuple[str, dict[str, Any]]:
    """Which API, and the arguments of the client's ``create``: greedy and sampled, chat and plain, with several
    choices, penalties and stop strings."""
    common: dict[str, Any] = {"model": "demo", "max_tokens": tokens, "seed": 100 + number}
    common["temperature"] = (0.0, 0.8, 1.0, 1.2)[number % 4]
    extra: dict[str, Any] = {"ignore_eos": True, "min_tokens": tokens, "return_token_ids": True}
    if number % 8 == 3:
        extra |= {"repetition_penalty": 1.1, "top_k": 40}
    if number >= STREAMS - 3:
        del extra["min_tokens"]
        common["stop"] = ["88", "and so on", "zz"]
    if number % 4 == 2:
        prompt = f"The sluice number {number} was opened"
        return "completions", common | {"prompt": prompt, "logprobs": 2, "extra_body": extra}
    common |= {"messages": [{"role": "user", "content": f"Count from {number} to 99."}], "logprobs": True}
    common |= {"top_logprobs": number % 3}
    if number % 8 == 1:
        common["n"] = 2
    return "chat", common | {"extra_body": extra}


async def listen(client: Any, number: int, heard: Heard, tokens: int = TOKENS, **changes: Any) -> Heard:
    """Raises what the client raises."""
    api, arguments = request(number, tokens)
    create = client.completions.create if api == "completions" else client.chat.completions.create
    stream = await create(**arguments | changes, stream=True, stream_options={"include_usage": True})
    async for chunk in stream:
        heard.arrivals.append(time.monotonic())
        for choice in chunk.choices:
            index = choice.index
            text = choice.text if api == "completions" else choice.delta.content
            heard.text[index] = heard.text.get(index, "") + (text or "")
            heard.ids.setdefault(index, []).extend((choice.model_extra or {}).get("token_ids") or [])
            if choice.logprobs is not None:
                heard.logprobs.setdefault(index, []).append(choice.logprobs.model_dump())
            if choice.finish_reason is not None:
                heard.finish[index] = choice.finish_reason
        if chunk.usage is not None:
            heard.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
    heard.logprobs = {index: _joined(parts) for index, parts in heard.logprobs.items()}
    return heard


def _joined(parts: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """However they were cut into chunks."""
    return {name: [item for part in parts for item in part.get(name) or []] for name in parts[0]}


async def listen_to_all(server: Any, heard: list[Heard]) -> list[tuple[Any, ...]]:
    async with server.async_client(timeout=300.0) as client:
        streams = await asyncio.gather(*[listen(client, number, each) for number, each in enumerate(heard)])
    return [stream.everything() for stream in streams]


def new() -> list[Heard]:
    return [Heard() for _ in range(STREAMS)]
