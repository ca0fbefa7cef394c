"""Schedule: one step as it is planned, before it becomes a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from engine.sequence import Sequence


@dataclass(slots=True)
class Schedule:
    """Rows are sequences and how many tokens of each the step computes."""

    budget: int
    """Tokens left to give out."""
    began: float = 0.0
    """When it was complete and its computation began, in seconds."""
    most_rows: int = 0
    """Its share of the sequences, where several steps go on at once."""
    chunk_budget: int = 0
    """Of these, the ones left for sequences that are bounded, see ``PrefillPolicy.is_bounded``."""
    is_burst: bool = False
    """Whether short prompts are not bounded."""
    rows: dict[Sequence, int] = field(default_factory=dict)
    ahead: dict[Sequence, int] = field(default_factory=dict)
    """The first of the rows, those planned by ``prepare``: their places among what it planned, in rising order."""
    silent: set[Sequence] = field(default_factory=set)
    """Rows that sample nothing."""
    scored: set[Sequence] = field(default_factory=set)
    """Rows some of whose prompt is scored."""
    started: list[str] = field(default_factory=list)
    """Ids of sequences computed for the first time."""
    decode_tokens: int = 0
    """Of the scheduled tokens, the newest output tokens; the others are prompt, or computed once more."""
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0

    @property
    def is_full(self) -> bool:
        return not self.budget or len(self.rows) >= self.most_rows

    def allow(self, tokens: int, bounded: bool) -> int:
        """How many of these tokens a sequence may have."""
        return min(tokens, self.budget, self.chunk_budget) if bounded else min(tokens, self.budget)

    def add(self, sequence: Sequence, tokens: int, bounded: bool) -> None:
        self.rows[sequence] = tokens
        self.budget -= tokens
        if bounded:
            self.chunk_budget -= tokens

    def drop(self, sequence: Sequence) -> None:
        """Take out a stream, if it is there. (Who is preempted is younger, and prompts are planned by age.)"""
        self.budget += self.rows.pop(sequence, 0)
        self.ahead.pop(sequence, None)

    def rest(self) -> Iterator[tuple[Sequence, int]]:
        """The rows that were not planned ahead."""
        return islice(self.rows.items(), len(self.ahead), None)

    @property
    def scheduled_tokens(self) -> int:
        return sum(self.rows.values())
