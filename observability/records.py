"""Plain statistics records: what happened, as numbers, with no opinion on how it is shown.

The engine sends them over its socket and the gateway turns them into metrics, so every interval is taken
from the monotonic clock of one process and never from a difference between two processes' clocks.
All durations are in seconds.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import msgspec

ErrorType = Literal["validation", "not_found", "overload", "cancelled", "internal", "not_implemented"]


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """How full an engine is at one moment."""

    running: int
    """Sequences that hold blocks."""
    waiting: int
    """Sequences in the waiting queue."""
    blocks_used: int
    """Blocks that a running sequence refers to."""
    blocks_total: int

    @property
    def kv_cache_usage(self) -> float:
        """Share of the blocks that running sequences refer to, 0 to 1."""
        return self.blocks_used / self.blocks_total if self.blocks_total else 0.0


class StepStats(msgspec.Struct, frozen=True, kw_only=True):
    """One engine step; counts are for this step alone."""

    step: int
    duration: float
    scheduled_tokens: int
    """Tokens computed in the step, prompt and decode together."""
    prompt_tokens: int
    """Those of them that lie inside a prompt (a recomputed output token counts here as well)."""
    generated_tokens: int
    preemptions: int
    prefix_queries: int
    """Prompt tokens looked up in the prefix index."""
    prefix_hits: int
    """Prompt tokens found there."""
    state: EngineState
    """After the step."""


class ChoiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """How one choice fared inside the engine; sent with its first token."""

    queue_time: float
    """From its arrival at the engine to the first step that computed it."""
    prefill_time: float
    """From that step's start to its first token."""
    cached_tokens: int
    """Prompt tokens taken from the prefix cache."""


class InterTokenLatencies(msgspec.Struct, frozen=True, kw_only=True):
    """Gaps between successive tokens of choices; those that arrived together share the time since the one before."""

    values: list[float]


class RequestStats(msgspec.Struct, frozen=True, kw_only=True):
    """One request at its end, however it ended. ``None`` where the request never got that far."""

    tenant: str
    finish_reason: str
    """``stop``, ``length``, ``tool_calls``, ``abort`` or ``error`` (of choice 0 where there are several)."""
    error_type: ErrorType | None = None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_time: float | None = None
    prefill_time: float | None = None
    time_to_first_token: float | None = None
    time_per_output_token: float | None = None
    """(last token - first token) / (tokens - 1), of the choice that generated most."""
    end_to_end: float


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A request turned away before it was accepted."""

    tenant: str
    error_type: ErrorType
    reason: str
    """One of a fixed set of short words: ``queue_full``, ``concurrency``, ``invalid_request``, ``auth``, …"""


LossKind = Literal["signal", "exit", "error", "silent", "stalled", "garbled"]
"""How an engine was lost: it died of a signal, ended by itself, said why it must end, was killed because it was silent
or made no step, or said what cannot be understood."""


class EngineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change in the life of one engine process."""

    kind: Literal["up", "lost"]
    epoch: int = 1
    """Which incarnation of its replica, counted from 1."""
    cause: LossKind | None = None
    """Of a loss; and below in words."""
    message: str = ""

    @property
    def up(self) -> int:
        return int(self.kind == "up")

    @property
    def restarted(self) -> int:
        """1 where a replica that was lost serves again."""
        return int(self.kind == "up" and self.epoch > 1)

    @property
    def lost(self) -> int:
        return int(self.kind == "lost")


class Routed(msgspec.Struct, frozen=True, kw_only=True):
    """A choice sent to a replica."""

    reason: str
    """``sibling``, ``session``, ``prefix``, ``load`` or ``random``."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A choice handed to an engine again, with what it had emitted, after an attempt that was lost."""


class Conviction(msgspec.Struct, frozen=True, kw_only=True):
    """A request was given up because it crashes engines."""


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """A reader came back for a stream."""

    outcome: str
    """``resumed``, ``not_found``, ``gone`` or ``invalid``."""


class JournalCommit(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction of the durable journal."""

    duration: float
    entries: int
    """Messages of tokens that it made durable."""


class JournalState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the durable journal can be written."""

    failed: int
    """1 while it cannot."""


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache of one engine, known when it is up."""

    block_size: int
    num_blocks: int


class IgnoredFields(msgspec.Struct, frozen=True, kw_only=True):
    """Unknown fields of a request that ``--unknown-fields warn`` or ``ignore`` let through."""

    tenant: str
    count: int


class GrammarTried(msgspec.Struct, frozen=True, kw_only=True):
    """A grammar that no request had brought lately was compiled, to see whether it can be."""

    outcome: str
    """``ok``, ``refused``, ``timeout`` or ``crash``."""
    seconds: float


class BuildInfo(msgspec.Struct, frozen=True, kw_only=True):
    version: str


Record: TypeAlias = (
    StepStats
    | EngineState
    | InterTokenLatencies
    | RequestStats
    | Rejection
    | EngineEvent
    | Routed
    | Replay
    | Conviction
    | Resume
    | JournalCommit
    | JournalState
    | CacheConfig
    | IgnoredFields
    | GrammarTried
    | BuildInfo
)
"""What the metrics are fed with. :class:`ChoiceStats` is not among them: the gateway sums it up in RequestStats."""


class Recorder(Protocol):
    """Takes records; ``replica`` is a label of what an engine has to say."""

    def __call__(self, record: Record, *, replica: str = "0") -> None: ...
