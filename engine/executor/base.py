"""Executor: runs batches on one or more ranks. It knows nothing of requests, queues or sockets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig

Progress: TypeAlias = Callable[[str, int, int, str], None]
"""``progress(stage, done, total, unit)``: how far a stage of the start-up has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What loading the weights has told us about the model and the place where it runs."""

    device: str
    """``cpu`` or ``cuda:0 (NAME)``; of several ranks, the first one's."""
    dtype: str
    """Of the weights, as torch names it without the prefix."""
    parameters: int
    weight_bytes: int
    max_model_len: int
    """The model's own limit, in tokens."""
    vocab_size: int
    eos_token_ids: list[int]
    fingerprint: str
    """Numerics fingerprint, see ``EngineInfo``."""
    kernels: dict[str, str]
    """Op name → provider."""
    kernel_builds: list[str] = field(default_factory=list)
    """Name and digest of each compiled build that computes."""
    block_bytes: int
    """Of one KV-cache block, keys and values of all layers together."""


class Executor(ABC):
    """A module of this package defines one subclass, and ``--executor`` names the module.

    The calls come from one thread (a CUDA context and an OpenMP team belong to theirs), in the order of the
    methods. ``load`` and ``initialize_cache`` raise EngineError for a mistake of the model or the settings;
    anything else that is raised is a fault.
    """

    @abstractmethod
    def __init__(self, config: EngineConfig, progress: Progress) -> None: ...

    @abstractmethod
    def load(self) -> ModelFacts:
        """Load the weights on all ranks."""

    @abstractmethod
    def initialize_cache(self) -> int:
        """Make the KV cache on all ranks and return its size in blocks, the minimum over ranks."""

    @property
    def depth(self) -> int:
        """Most steps that may be under way at once: submitted and not yet collected."""
        return 1

    @property
    def can_be_followed(self) -> bool:
        """Whether, where ``depth`` is 1, a second step may be submitted that goes on with tokens of the one under way
        (``ScheduledBatch.carried``), or without. It is so of no step some of whose tokens the host has to draw, or to
        know in order to draw the next ones.
        """
        return False

    @abstractmethod
    def submit(self, batch: ScheduledBatch) -> None:
        """Begin a step, which may go on beside the steps before it."""

    @abstractmethod
    def collect(self) -> StepResult:
        """The oldest step's tokens. Blocks until they are known, and lets other threads run meanwhile.

        Raises RankError where a rank is lost, as every method may once it has loaded.
        """

    @abstractmethod
    def check(self) -> None:
        """Raises RankError where a rank is lost; called every now and then while there is nothing to compute."""

    def use_idle_time(self) -> bool:
        """Do a few milliseconds of what would otherwise hold up a step; False where nothing is left to do."""
        return False

    @abstractmethod
    def shutdown(self) -> None:
        """Let go of devices and ranks."""
