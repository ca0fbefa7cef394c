"""The executor of several ranks: a process each, on this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.errors import ConfigurationError, RankError
from engine.executor.base import Executor, ModelFacts, Progress
from engine.patience import Patience
from engine.ranks.crew import Crew
from engine.ranks.messages import CacheMade, Capacity, Compute, Computed, Load, Loaded, MakeCache, MeasureCache
from engine.worker.machine import all_threads


class MultiprocExecutor(Executor):
    """Every rank is sent every batch. One samples, and its tokens come back to the others in the batches that follow.

    Made by a thread that lives as long as the engine: ranks end with it.
    """

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        """Raises ConfigurationError where steps are to overlap: the tokens of one rank are no other's."""
        if config.overlap == "on":
            raise ConfigurationError("--overlap on: steps that several ranks compute do not overlap, leave it out")
        self._config = config
        self._crew = Crew(config, max(1, all_threads(config) // config.ranks), progress)
        self._patience = Patience()
        self._expected: deque[int] = deque()
        """Tokens that each step under way samples."""

    @property
    def depth(self) -> int:
        return self._config.pipeline_parallel_size

    @property
    def pids(self) -> list[int]:
        """Of the ranks, in their order."""
        return self._crew.pids

    def load(self) -> ModelFacts:
        with self._lost_as_a_whole():
            self._crew.tell(Load(self._config))
            loaded = self._crew.hear_from_all(Loaded)
            found = [loaded[rank].facts for rank in sorted(loaded)]
            if len({facts.fingerprint for facts in found}) > 1:
                raise RankError("ranks have loaded different weights or kernels")
        return replace(
            found[0],
            weight_bytes=sum(facts.weight_bytes for facts in found),
            block_bytes=sum(facts.block_bytes for facts in found),
        )

    def initialize_cache(self) -> int:
        with self._lost_as_a_whole():
            self._crew.tell(MeasureCache())
            num_blocks = min(answer.num_blocks for answer in self._crew.hear_from_all(Capacity).values())
            self._crew.tell(MakeCache(num_blocks))
            self._crew.hear_from_all(CacheMade)
        return num_blocks

    def submit(self, batch: ScheduledBatch) -> None:
        with self._lost_as_a_whole():
            self._patience.begin(len(batch.input_ids))
            self._expected.append(len(batch.samples))
            self._crew.tell(Compute(batch))

    def collect(self) -> StepResult:
        with self._lost_as_a_whole():
            found = self._crew.hear(self._patience.left())
            if found is None:
                self._crew.dump()
                raise RankError(
                    f"the ranks are stuck in a step, which was predicted to take {self._patience.predicted:.3g} s"
                )
            rank, message = found
            expected = self._expected.popleft()
            if not isinstance(message, Computed) or len(message.result.token_ids) != expected:
                raise RankError(f"rank {rank} has answered a step that samples {expected} tokens with something else")
            self._patience.end()
        return message.result

    def check(self) -> None:
        with self._lost_as_a_whole():
            self._crew.check()

    def shutdown(self) -> None:
        self._crew.end()

    @contextmanager
    def _lost_as_a_whole(self) -> Iterator[None]:
        """Where one rank is lost, what the others compute is of no use."""
        try:
            yield
        except BaseException:
            self._crew.end()
            raise
