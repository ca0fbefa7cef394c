"""From skills to training batches: conversations drawn by weight, rendered, tokenized, padded in groups of like length.

Everything is a function of (seed, step), so training resumes at a step with no other state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer

from demo.skills import SKILLS
from demo.skills.base import Message, draw
from demo.skills.tools import tool_session
from demo.template import END, PAD, START, render

# Share of single exchanges. Sums and letters need the most practice, closed lists the least.
WEIGHTS = {
    "arithmetic": 26,
    "word_problems": 7,
    "counting": 5,
    "sorting": 6,
    "comparing": 5,
    "too_big": 2,
    "spelling": 7,
    "reversing": 7,
    "letters": 6,
    "capitals": 6,
    "simple_facts": 6,
    "calendar": 7,
    "units": 7,
    "penstock": 9,
    "small_talk": 8,
    "unknown": 6,
    "echo": 3,
    "memory": 5,
    "json": 7,
    "tool_call": 1.5,
    "tool_answer": 1,
    "tool_unneeded": 0.7,
    "story": 1.2,
    "poem": 0.8,
}
MANY_TURNS = 0.3
ALONE = {"memory", "tool_call", "tool_answer", "tool_unneeded"}
SYSTEMS = [
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Be brief.",
    "You are the Penstock demo model.",
    "Answer in English.",
    "You are a helpful, honest assistant. Answer briefly.",
    "You are an AI.",
    "Today is a good day. You help people.",
    "Be polite and short.",
]
LONGEST = 512
OTHER_TOKENS_WEIGHT = 0.05


@dataclass(frozen=True)
class Mixture:
    """Relative shares of the skills, and the share of conversations that are sessions under tools."""

    weights: dict[str, float] = field(default_factory=lambda: WEIGHTS)
    tool_sessions: float = 0.05


def conversation(rng: Random, mixture: Mixture) -> tuple[list[Message], list[dict[str, Any]]]:
    """One training conversation: usually one exchange, sometimes several, sometimes under tools or a system prompt."""
    names, shares = list(mixture.weights), list(mixture.weights.values())
    messages: list[Message] = []
    tools: list[dict[str, Any]] = []
    if rng.random() < mixture.tool_sessions:
        exchange = tool_session(rng)
        messages, tools = exchange.messages, exchange.tools
    else:
        turns = rng.randint(2, 7) if rng.random() < MANY_TURNS else 1
        alone = False
        for _ in range(turns):
            name = rng.choices(names, shares)[0]
            if name in ALONE and (alone or (turns > 1 and name != "memory")):
                continue
            alone = alone or name in ALONE
            exchange = draw(SKILLS[name], rng, held_out=False)
            messages = messages + exchange.messages
            tools = exchange.tools or tools
    if rng.random() < 0.2:
        messages = [{"role": "system", "content": rng.choice(SYSTEMS)}, *messages]
    return messages, tools


def texts(seed: int, count: int) -> Iterator[str]:
    """Rendered conversations, for the tokenizer and for reading."""
    rng = Random(f"{seed}:texts")
    for _ in range(count):
        yield render(*conversation(rng, Mixture()))


class Batches:
    """Training batches by step."""

    def __init__(self, tokenizer: Tokenizer, seed: int, tokens: int, group_tokens: int = 1024) -> None:
        self.tokenizer, self.seed, self.tokens, self.group_tokens = tokenizer, seed, tokens, group_tokens
        self.start, self.end, self.pad = (tokenizer.token_to_id(t) for t in (START, END, PAD))
        self.assistant = tokenizer.encode("assistant").ids

    def weigh(self, ids: list[int]) -> list[float]:
        """Loss weight of each token: 1 from the first token of an assistant's turn to its end marker, else small."""
        weights = [OTHER_TOKENS_WEIGHT] * len(ids)
        header = [self.start, *self.assistant]
        inside, skip = False, 0
        for i, token in enumerate(ids):
            if token == self.start:
                inside = ids[i : i + len(header)] == header
                skip = i + len(header) + 1  # the newline after the role is given, too
            if inside and i >= skip:
                weights[i] = 1.0
                inside = token != self.end
        return weights

    def step(self, step: int, mixture: Mixture) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Groups of (ids [rows, length], loss weights of the same shape); together about `tokens` tokens."""
        rng = Random(f"{self.seed}:{step}")
        rows: list[list[int]] = []
        total = 0
        while total < self.tokens:
            drawn = [render(*conversation(rng, mixture)) for _ in range(16)]
            for encoding in self.tokenizer.encode_batch(drawn, add_special_tokens=False):
                # The newline after the last end marker is never generated.
                ids = encoding.ids[:-1]
                if len(ids) <= LONGEST and total < self.tokens:
                    rows.append(ids)
                    total += len(ids)
        rows.sort(key=len)
        groups: list[list[list[int]]] = [[]]
        for row in rows:
            group = groups[-1]
            full = len(row) * (len(group) + 1) > self.group_tokens
            ragged = group and len(row) > 1.3 * len(group[0]) and len(row) * len(group) > self.group_tokens / 2
            if group and (full or ragged):
                groups.append([])
            groups[-1].append(row)
        return [self.pad_group(group) for group in groups]

    def pad_group(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-pad to the longest row; padding has no weight."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad)
        weights = torch.zeros(len(rows), width)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            weights[i, : len(row)] = torch.tensor(self.weigh(row))
        return ids, weights
