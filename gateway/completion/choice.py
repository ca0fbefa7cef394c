"""The mutable state of an accepted request and its choices. Only ``lifecycle`` changes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec.structs import replace

from engine.messages import EngineInfo, Start, ToEngine, Tokens
from engine.sampling_params import SamplingParams
from gateway.completion.events import FinishReason, PromptScored, Usage
from gateway.completion.fold import Fold
from gateway.completion.journal import Emitted
from gateway.completion.request import Request
from gateway.completion.stream import Output
from gateway.completion.suspects import Witness
from gateway.errors import APIError
from observability.records import AttemptTrace, ChoiceStats, RequestStats


@dataclass(slots=True, eq=False)
class Incarnation:
    """One engine process, from Up to Lost; ``running`` are the choices it has been sent and that are not done."""

    replica: int
    epoch: int
    info: EngineInfo
    send: Callable[[ToEngine], None]
    running: dict[str, Choice] = field(default_factory=dict)
    draining: bool = False
    load: int = 0
    """Tokens it has still to compute, as far as can be told."""
    productive: bool = False
    """Whether any token of it has arrived."""


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica that is up, for people to see."""

    replica: int
    epoch: int
    draining: bool
    running: int
    """Choices that it has been sent and that are not done."""


@dataclass(slots=True, eq=False)
class Place:
    """Where an attempt runs, and what it adds to the load there, in tokens."""

    incarnation: Incarnation
    prompt_load: int
    """Of what the engine is handed, what it has to compute; 0 from the first token on."""
    output_load: int
    digests: list[bytes]
    """Of the blocks it could take over, for its siblings; like what follows, empty from the first token on."""
    expected: list[bytes]
    """Those that the router expects in the replica's cache because of it."""


@dataclass(slots=True, eq=False)
class Choice:
    """``Pending → Running(replica, epoch, attempt) → Done(reason)``; a loss takes Running back to Pending."""

    request: ActiveRequest
    index: int
    id: str
    emitted: Emitted
    fold: Fold
    state: Literal["pending", "running", "done"] = "pending"
    place: Place | None = None
    """The replica and epoch of Running."""
    fingerprint: str = ""
    """Of the engine that has, or last had, the choice."""
    attempt: int = 0
    held: int = 0
    """Output tokens that the current attempt began with."""
    gaps: int = 0
    """Attempts since the last token that ended by tokens that do not continue it."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    cached_tokens: int | None = None
    finish_reason: FinishReason | None = None
    attempts: list[AttemptTrace] = field(default_factory=list)
    """Of a traced request."""

    @property
    def prompt_index(self) -> int:
        return self.index // self.request.request.n

    @property
    def prompt(self) -> list[int]:
        return self.request.request.prompts[self.prompt_index]

    @property
    def siblings(self) -> Sequence[Choice]:
        """The choices of its prompt, itself included."""
        n = self.request.request.n
        return self.request.choices[self.prompt_index * n : (self.prompt_index + 1) * n]

    @property
    def params(self) -> SamplingParams:
        return self.request.request.params[self.prompt_index]

    @property
    def is_to_score(self) -> bool:
        """Whether an attempt that begins now scores the prompt, where that was asked for.

        That is done once for all siblings, and again only where the one that was to do it has lost its engine before.
        As long as there are no scores, a sibling is at it or is pending, so they come.
        """
        active = self.request
        if self.params.prompt_logprobs is None or self.prompt_index in active.scored_prompts:
            return False
        scorer = active.scorers.get(self.prompt_index, self)
        return scorer is self or scorer.state != "running"

    def start(self, *, at_once: bool = False) -> Start:
        """What the engine is told for the current attempt: to go on after what was emitted."""
        self._note_attempt()
        params = self.params
        if self.is_to_score:
            self.request.scorers[self.prompt_index] = self
        elif params.prompt_logprobs is not None:
            params = replace(params, prompt_logprobs=None)
        return Start(
            id=self.id,
            attempt=self.attempt,
            prompt=self.prompt,
            output_prefix=list(self.emitted.ids),
            params=params,
            seed=self.request.request.seed,
            choice=self.index,
            cache_salt=self.request.request.cache_salt,
            at_once=at_once,
            grammar=self.request.request.grammar,
        )

    def witness(self, executing: Mapping[str, Sequence[int]] | None, *, called_off: bool = False) -> Witness:
        """Of the loss of its engine; ``executing`` as in ``Loss``, ``called_off`` as in ``Witness``."""
        emitted = len(self.emitted.ids)
        tokens = executing.get(self.id, ()) if executing is not None else ()
        positions = sorted({max(self.held, count - len(self.prompt)) for count in tokens})
        return Witness(self.id, emitted, emitted - self.held, positions, called_off)

    def note_first_output(self, output: Tokens) -> None:
        """Takes in what comes with an attempt's first tokens alone; of a later attempt it is old news."""
        active = self.request
        if output.stats is not None and self.attempts:
            self.attempts[-1].prefill_time = output.stats.prefill_time
        if output.stats is not None and self.cached_tokens is None:
            self.cached_tokens = output.stats.cached_tokens
            active.first_stats = active.first_stats or output.stats
        if output.prompt_logprobs is not None and self.prompt_index not in active.scored_prompts:
            active.scored_prompts.add(self.prompt_index)
            active.stream.push(PromptScored(self.prompt_index, output.prompt_logprobs))

    def note_tokens(self, count: int, now: float, gaps: list[float]) -> None:
        """Tokens have arrived; appends the gap before each but the choice's first arrival to ``gaps``.

        Those that arrive together were generated one after another, so they share the time since the last evenly.
        """
        if self.attempts and self.attempts[-1].first_token_at is None:
            self.attempts[-1].first_token_at = now
        if self.last_token_at is None:
            self.first_token_at = now
            if self.request.first_token_at is None:
                self.request.first_token_at = now
        else:
            gap = (now - self.last_token_at) / count
            gaps.extend([gap] * count)
            if gap > self.request.longest_gap:
                self.request.longest_gap = gap
            if len(self.emitted.ids) == self.held:  # the first of a new attempt
                self.request.pauses.append(now - self.last_token_at)
        self.last_token_at = now

    def note_left(self) -> None:
        """It does not run any more, or not there."""
        if self.attempts:
            self.attempts[-1].ended_at = self.request.now()

    def _note_attempt(self) -> None:
        if self.request.request.traceparent and self.place is not None:
            place = self.place.incarnation
            self.attempts.append(
                AttemptTrace(
                    number=self.attempt,
                    replica=place.replica,
                    epoch=place.epoch,
                    held=self.held,
                    began_at=self.request.now(),
                )
            )


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """A request from its acceptance to its one terminal output. Times are the gateway's clock, in seconds."""

    request: Request
    submitted_at: float
    now: Callable[[], float] = time.monotonic
    stream: Output = field(init=False)
    choices: list[Choice] = field(default_factory=list)
    remaining: int = 0
    """Choices that are not done; 0 once the request is over, however it ended."""
    restored: bool = False
    """Whether an earlier gateway process has sent tokens of it."""
    begun: bool = False
    """Whether the engine has computed anything for it."""
    first_token_at: float | None = None
    first_stats: ChoiceStats | None = None
    longest_gap: float = 0.0
    """Between successive tokens of a choice."""
    pauses: list[float] = field(default_factory=list)
    """Of choices that had begun and lost their engine, from token to token."""
    scored_prompts: set[int] = field(default_factory=set)
    scorers: dict[int, Choice] = field(default_factory=dict)
    """Prompt → the choice that was last told to score it."""

    @property
    def emitted(self) -> bool:
        """Whether a token of it has arrived."""
        return self.restored or self.first_token_at is not None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that came from the prefix cache; choices of one prompt share it, so the fewest count."""
        fewest: dict[int, int] = {}
        for choice in self.choices:
            if choice.cached_tokens is not None:
                known = fewest.get(choice.prompt_index, choice.cached_tokens)
                fewest[choice.prompt_index] = min(known, choice.cached_tokens)
        return sum(fewest.values())

    @property
    def generated_tokens(self) -> int:
        return sum(choice.fold.num_tokens for choice in self.choices)

    def usage(self) -> Usage:
        reasoning = sum(choice.fold.reasoning_tokens for choice in self.choices)
        return Usage(self.request.num_prompt_tokens, self.generated_tokens, self.cached_tokens, reasoning)

    def stats(self, now: float, error: APIError | None) -> RequestStats:
        first = self.first_stats
        longest = max(self.choices, key=lambda choice: choice.fold.num_tokens)
        return RequestStats(
            tenant=self.request.tenant,
            finish_reason="error" if error is not None else self.choices[0].finish_reason or "abort",
            error_type=error.error_type if error is not None else None,
            prompt_tokens=self.request.num_prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated_tokens,
            queue_time=first.queue_time if first is not None else None,
            prefill_time=first.prefill_time if first is not None else None,
            time_to_first_token=self.first_token_at - self.submitted_at if self.first_token_at is not None else None,
            time_per_output_token=self._time_per_output_token(longest),
            decode_time=self._decode_time(),
            longest_gap=self.longest_gap or None,
            pauses=self.pauses,
            end_to_end=now - self.submitted_at,
            choices=len(self.choices),
            max_tokens=max(params.max_tokens for params in self.request.params),
            longest_choice=longest.fold.num_tokens,
            trace_id=self.request.trace_id,
        )

    def _decode_time(self) -> float | None:
        ends = [choice.last_token_at for choice in self.choices if choice.last_token_at is not None]
        return None if self.first_token_at is None else max(ends, default=self.first_token_at) - self.first_token_at

    @staticmethod
    def _time_per_output_token(longest: Choice) -> float | None:
        if longest.first_token_at is None or longest.last_token_at is None or longest.fold.num_tokens < 2:
            return None
        return (longest.last_token_at - longest.first_token_at) / (longest.fold.num_tokens - 1)
