"""PrefillPolicy: how much of a step prompts may take while streams wait for it.

A stream waits for as long as the step takes which computes its next token. So beside streams the prompts, and whatever
is computed again, share a few tokens. That takes more steps, which is no price where a few rows keep the device busy.
But where no fewer sequences are about to begin than there are streams, most of the users wait for a first token. That
is a burst: a prompt that the budget can take whole is taken whole. It lasts until there are four streams for each that
is still to begin. Ended sooner, it would leave a rest whose tokens, a few beside so many streams, are no cheaper than
together: the streams would be slowed down for as long as they would have stood still, and those that begin would wait
longer. A prompt that is longer than a step stays in chunks, to its end, or that end would be a long step for the sake
of a single one.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.schedule import Schedule
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class PromptShare:
    """How many prompt tokens a step may take beside streams: the greatest of these."""

    tokens: int
    for_each_stream: int = 0
    seconds: float = 0.0
    """As many as are computed in this time."""


class Pace:
    """How long a token takes in steps of many, judged by those so far."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def record(self, tokens: int, seconds: float) -> None:
        """A step. One of few tokens says little: its time is that of reading the weights."""
        if tokens >= _MANY and seconds > 0:
            last = self._seconds or seconds / tokens
            self._seconds = last + _WEIGHT * (seconds / tokens - last)

    def tokens_in(self, seconds: float) -> int:
        """0 as long as nothing is known."""
        return int(seconds / self._seconds) if self._seconds else 0


_MANY = 32
_WEIGHT = 0.2
"""Of the newest step."""
_STREAMS_FOR_ONE = 4
"""How many streams a burst keeps waiting for each sequence that begins."""


class PrefillPolicy:
    def __init__(self, share: PromptShare, token_budget: int) -> None:
        """``token_budget``: tokens of a whole step."""
        self._share = share
        self._token_budget = token_budget
        self._pace = Pace()
        self._is_burst = False

    def record(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        self._pace.record(tokens, seconds)

    def weigh(self, plan: Schedule, *, streams: int, beginning: int) -> None:
        """Say how many tokens the plan has for what is bounded, and whether short prompts are not.

        beginning: sequences that have no output yet, and could be computed in this step.
        """
        share = self._share
        many = max(share.tokens, share.for_each_stream * streams, self._pace.tokens_in(share.seconds))
        plan.chunk_budget = many if streams else self._token_budget
        goes_on = self._is_burst and beginning * _STREAMS_FOR_ONE >= streams
        plan.is_burst = goes_on or beginning >= streams
        self._is_burst = plan.is_burst and streams > 0

    def is_bounded(self, plan: Schedule, sequence: Sequence, found: int) -> bool:
        """Whether what a sequence gets in this plan counts against the prompt tokens that streams put up with.

        found: tokens that the prefix cache had of it when it was last admitted.
        """
        uncomputed = sequence.num_tokens - max(sequence.num_computed, found)
        if uncomputed == 1 and sequence.num_output > 0:
            return False
        is_short = sequence.num_tokens - found <= self._token_budget
        return not (plan.is_burst and is_short and uncomputed <= plan.budget)
