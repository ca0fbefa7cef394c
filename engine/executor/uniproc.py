"""The executor of a single rank: its worker lives in the engine process."""

from __future__ import annotations

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

    def load(self) -> ModelFacts:
        return self._worker.load()

    def initialize_cache(self) -> int:
        num_blocks = self._worker.cache_capacity()
        self._worker.allocate_cache(num_blocks)
        return num_blocks

    def use_idle_time(self) -> bool:
        return self._worker.use_idle_time()

    def submit(self, batch: ScheduledBatch) -> None:
        self._batch = batch

    def collect(self) -> StepResult:
        result = self._worker.execute(self._batch)
        assert result is not None, "the only rank samples"
        return result

    def check(self) -> None:
        """There is no other rank to lose."""

    def shutdown(self) -> None:
        del self._worker
