"""The executor of a single rank: its worker lives in the engine process, in a thread of its own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.executor.base import Executor, ModelFacts, Progress
from engine.worker.worker import Worker


class UniprocExecutor(Executor):
    """Every call of the worker comes from the one thread: a CUDA context and an OpenMP team belong to theirs."""

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._worker = self._thread.submit(Worker, config, progress).result()

    def load(self) -> ModelFacts:
        return self._thread.submit(self._worker.load).result()

    def initialize_cache(self) -> int:
        return self._thread.submit(self._initialize_cache).result()

    def submit(self, batch: ScheduledBatch) -> Future[StepResult]:
        return self._thread.submit(self._worker.execute, batch)

    def shutdown(self) -> None:
        del self._worker
        self._thread.shutdown()

    def _initialize_cache(self) -> int:
        num_blocks = self._worker.cache_capacity()
        self._worker.allocate_cache(num_blocks)
        return num_blocks
