"""What each live choice has emitted: the one source for replay and resume. Storage only, no rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.messages import EngineFinish, TokenLogprobs


@dataclass(slots=True)
class Emitted:
    """Output tokens of one choice so far, at most its ``max_tokens``. Log-probabilities are kept, never recomputed."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One for each id where the choice asked for them, else empty."""
    finish: EngineFinish | None = None
    """Where the engine ended the choice: at the last of ``ids``."""


class Journal(ABC):
    """A choice is opened when its request is accepted and closed when it is done."""

    @abstractmethod
    def open(self, choice_id: str) -> Emitted:
        """The record of a new choice, live: it shows later appends. Only the journal changes it."""

    @abstractmethod
    def append(
        self,
        choice_id: str,
        ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs] | None,
        finish: EngineFinish | None = None,
    ) -> None:
        """Called before the tokens are folded and sent."""

    @abstractmethod
    def close(self, choice_id: str) -> None:
        """Forgets a choice."""


class MemoryJournal(Journal):
    """Lasts as long as the gateway process."""

    def __init__(self) -> None:
        self._choices: dict[str, Emitted] = {}

    def open(self, choice_id: str) -> Emitted:
        emitted = self._choices[choice_id] = Emitted()
        return emitted

    def append(
        self,
        choice_id: str,
        ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs] | None,
        finish: EngineFinish | None = None,
    ) -> None:
        emitted = self._choices[choice_id]
        emitted.ids.extend(ids)
        if logprobs:
            emitted.logprobs.extend(logprobs)
        emitted.finish = finish

    def close(self, choice_id: str) -> None:
        del self._choices[choice_id]

    def __len__(self) -> int:
        return len(self._choices)
