"""How one choice is to be sampled, as the engine sees it: token ids only, every default resolved by the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from engine.arrays import IntArray


NOTHING_LEFT = "No token can follow: allowed_token_ids, bad_words, min_tokens and the grammar rule out every one."
"""Why a choice cannot go on whose parameters leave no token to sample."""


class ReasoningLimit(msgspec.Struct, frozen=True, array_like=True):
    """After so many tokens of reasoning, its end follows. Which token comes then is a function of the output alone."""

    tokens: int
    end: int
    """The token that ends it."""
    begin: int | None = None
    """The token that begins it, the first or second of the output; None where the prompt has begun it."""

    def reached(self, output: Sequence[int] | IntArray) -> bool:
        """Whether the next token after this output is the end."""
        if not self.tokens <= len(output) <= self.tokens + 2:
            return False
        first = 0
        if self.begin is not None:
            head = list(output[:2])
            if self.begin not in head:
                return False
            first = head.index(self.begin) + 1
        return len(output) - first == self.tokens and self.end not in list(output[first:])


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Immutable sampling parameters. The gateway validates ranges; the engine relies on them.

    Order of application, as in Hugging Face's logits processors: logit bias, repetition penalty, presence and
    frequency penalties, minimum length, allowed tokens, bad words, limit of reasoning, grammar, temperature, top-k,
    top-p, min-p. Logprobs are those of the model's own distribution, before any of these.
    """

    max_tokens: int
    """Greatest number of output tokens; the engine ends earlier where its context is full."""
    min_tokens: int = 0
    """No stop token is sampled before this many output tokens; with a grammar it is 0."""
    temperature: float = 1.0
    """0 is greedy decoding."""
    top_k: int = 0
    """0 switches it off."""
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] = ()
    """No other token is sampled; empty for all."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Successions of tokens that are not completed: after all but the last of them, the last is not sampled."""
    reasoning_limit: ReasoningLimit | None = None
    stop_token_ids: tuple[int, ...] = ()
    """Generation ends after one of these; with ``ignore_eos`` the gateway leaves the model's own out."""
    logprobs: int | None = None
    """How many of the likeliest tokens to report beside the sampled one; None reports nothing."""
    prompt_logprobs: int | None = None
    """The same for every prompt token but the first; such a choice does not read the prefix cache. Of those that share
    a prompt, the gateway asks one for it."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0
