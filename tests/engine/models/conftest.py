"""A loaded worker on a tiny checkpoint, and the logits it computes through the paged cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.batch import ScheduledBatch
from engine.config import EngineConfig
from engine.executor.base import ModelFacts
from engine.worker.worker import Worker


def _padded(tables: list[list[int]]) -> np.ndarray:
    """Block tables as the batch has them, an array; -1 would be noticed if it were ever read."""
    longest = max(map(len, tables))
    return np.array([table + [-1] * (longest - len(table)) for table in tables], dtype=np.int32)


@dataclass
class Runner:
    """Feeds chunks of sequences to a worker's model and collects the logits of every position."""

    worker: Worker
    facts: ModelFacts
    block_size: int
    logits: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def step(self, chunks: Sequence[tuple[str, list[int], int, int, list[int]]]) -> None:
        """One batch of (name, token ids of the sequence, context, query length, block table)."""
        batch = ScheduledBatch(
            step=0,
            sequence_ids=tuple(name for name, *_ in chunks),
            input_ids=np.concatenate([ids[context : context + query] for _, ids, context, query, _ in chunks]).astype(
                np.int32
            ),
            query_lens=np.array([query for *_, query, _ in chunks], dtype=np.int32),
            context_lens=np.array([context for _, _, context, _, _ in chunks], dtype=np.int32),
            block_tables=_padded([table for *_, table in chunks]),
            samples=(),
        )
        hidden = self.worker._runner.forward(batch, self.worker._cache, every_token=True)[0].clone()
        last, _ = self.worker._runner.forward(batch, self.worker._cache)
        torch.testing.assert_close(last, hidden[np.cumsum(batch.query_lens) - 1])
        with torch.inference_mode():
            logits = torch.split(self.worker._model.logits(hidden), batch.query_lens.tolist())
        for name, part in zip(batch.sequence_ids, logits, strict=True):
            self.logits.setdefault(name, []).append(part.clone())

    def result(self, name: str) -> torch.Tensor:
        return torch.cat(self.logits[name])


MakeRunner = Callable[..., Runner]


@pytest.fixture
def make_runner() -> MakeRunner:
    """``make_runner(folder, block_size=4, **config) -> Runner`` with a cache of 256 blocks."""

    def make(folder: Path, **config: Any) -> Runner:
        settings = {"num_threads": 1, "block_size": 4, "kv_cache_memory": 1 << 30} | config
        worker = Worker(EngineConfig(model=str(folder), **settings), lambda *_: None)
        facts = worker.load()
        worker.allocate_cache(256)
        return Runner(worker, facts, settings["block_size"])

    return make
