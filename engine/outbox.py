"""Outbox: what steps have produced and the gateway has not been sent yet.

A small model takes a step in less time than the gateway and a client need for an event of each of its streams, and
where cores are few they take that time from the engine. So tokens wait for those of the next steps as long as no
reader would notice, and those of one choice leave together. A choice's first token and its last wait for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from engine.messages import StepOutput, TokenLogprobs, Tokens
from observability.records import StepStats

Key = tuple[str, int]
"""Id and attempt."""


class Outbox:
    """``add`` what a step has produced, then ask for what is ``due``; ``flush`` when no step follows."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        """``interval``: seconds between two frames that bring everything, to the nearest step; 0 for every step."""
        self._interval = interval
        self.hurried = False
        """Whether nothing waits."""
        self._clock = clock
        self._flushed_at = clock()
        self._step = 0.0
        """How long the last step took, in seconds: the next one is expected to take as long."""
        self._held: dict[Key, list[Tokens]] = {}
        self._urgent: dict[Key, None] = {}
        """A set that keeps its order."""
        self._started: list[str] = []
        self._stats: list[StepStats] = []

    def add(self, output: StepOutput) -> None:
        self._started += output.started
        self._stats += output.stats
        self._step = output.stats[-1].duration
        for tokens in output.outputs:
            key = (tokens.id, tokens.attempt)
            self._held.setdefault(key, []).append(tokens)
            ended = (tokens.finish, tokens.failure, tokens.refusal)
            if tokens.stats is not None or any(end is not None for end in ended):
                self._urgent[key] = None

    def due(self) -> StepOutput | None:
        """All, if now is nearer to the interval's end than the next step's end is; else what is urgent. None: nothing.

        So nothing is held for longer than the interval and one step.
        """
        if self.hurried or self._clock() + self._step / 2 - self._flushed_at >= self._interval:
            return self.flush()
        return self._take(self._urgent) if self._urgent else None

    def flush(self) -> StepOutput | None:
        """All that is held; None for nothing."""
        if not self._held and not self._stats:
            return None
        self._flushed_at = self._clock()
        return self._take(self._held)

    def _take(self, keys: Iterable[Key]) -> StepOutput:
        outputs = [_joined(self._held.pop(key)) for key in list(keys)]
        taken = StepOutput(started=self._started, outputs=outputs, stats=self._stats)
        self._started, self._stats, self._urgent = [], [], {}
        return taken


def _joined(parts: list[Tokens]) -> Tokens:
    """Successive tokens of one attempt as one message."""
    first = parts[0]
    if len(parts) == 1:
        return first
    logprobs: list[TokenLogprobs] = []
    for part in parts:
        logprobs += part.logprobs or []
    return msgspec.structs.replace(
        first,
        ids=[token_id for part in parts for token_id in part.ids],
        logprobs=None if first.logprobs is None else logprobs,
        finish=parts[-1].finish,
        failure=parts[-1].failure,
        refusal=parts[-1].refusal,
    )
