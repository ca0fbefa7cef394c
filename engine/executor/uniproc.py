"""The executor of a single rank: its worker lives in the engine process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.errors import ConfigurationError
from engine.executor.base import Executor, ModelFacts, Progress
from engine.worker.worker import Worker


class UniprocExecutor(Executor):
    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        """Raises ConfigurationError where several ranks are asked for."""
        if config.ranks > 1:
            raise ConfigurationError(f"--executor uniproc has one rank, and {config.ranks} are asked for: leave it out")
        self._worker = Worker(config, progress)
        self._under_way: deque[Callable[[], StepResult | None]] = deque()

    def load(self) -> ModelFacts:
        return self._worker.load()

    def initialize_cache(self) -> int:
        num_blocks = self._worker.cache_capacity()
        self._worker.allocate_cache(num_blocks)
        return num_blocks

    def use_idle_time(self) -> bool:
        return self._worker.use_idle_time()

    @property
    def can_be_followed(self) -> bool:
        return self._worker.can_be_followed

    def submit(self, batch: ScheduledBatch) -> None:
        # A CPU computes while it is waited for, when another thread can do something else.
        begun = self._worker.launch(batch) if self._worker.overlaps else partial(self._worker.execute, batch)
        self._under_way.append(begun)

    def collect(self) -> StepResult:
        result = self._under_way.popleft()()
        assert result is not None, "the only rank samples"
        return result

    def check(self) -> None:
        """There is no other rank to lose."""

    def shutdown(self) -> None:
        del self._worker
