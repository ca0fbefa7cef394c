"""A workload of conversations: each turn's prompt is all that was said before it, and one message more."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Lengths in tokens. Those of messages and answers are drawn between half and one and a half times the mean."""

    conversations: int = 64
    turns: int = 6
    system: int = 64
    """A beginning that all conversations share."""
    message: int = 48
    answer: int = 32
    think: float = 1.0
    """Mean seconds between an answer and the next message."""

    @property
    def tokens(self) -> int:
        """What all conversations together come to, on average, the shared beginning counted once."""
        return self.system + self.conversations * self.turns * (self.message + self.answer)


@dataclass(slots=True)
class Conversation:
    """What is said does not depend on when, where or after how long."""

    number: int
    shape: Shape
    seed: int
    vocabulary: Sequence[int]
    """Token ids that messages are made of."""
    said: list[int] = field(default_factory=list)
    turn: int = 0

    @property
    def over(self) -> bool:
        return self.turn == self.shape.turns

    def pause(self) -> float:
        """Seconds before the next message."""
        return self._rng("pause").expovariate(1 / self.shape.think) if self.shape.think else 0.0

    def ask(self) -> tuple[list[int], int]:
        """The next turn: (prompt, length of the answer)."""
        if not self.said:
            common = random.Random(f"{self.seed}/system")
            self.said += common.choices(self.vocabulary, k=self.shape.system)
        rng = self._rng("message")
        self.said += rng.choices(self.vocabulary, k=_around(self.shape.message, rng))
        return list(self.said), _around(self.shape.answer, rng)

    def hear(self, answer: Sequence[int]) -> None:
        self.said += answer
        self.turn += 1

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{self.seed}/{self.number}/{self.turn}/{what}")


def _around(mean: int, rng: random.Random) -> int:
    return max(1, rng.randint(mean - mean // 2, mean + mean // 2))
