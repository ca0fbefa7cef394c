"""An engine of the demo model in this process, and what each of its steps computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.batch import ScheduledBatch
from engine.config import EngineConfig
from engine.demo_model import PATH
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start, TokenLogprobs
from engine.sampling_params import SamplingParams


class _Watched(UniprocExecutor):
    """Remembers the batches it is given."""

    batches: list[ScheduledBatch]

    def submit(self, batch: ScheduledBatch) -> None:
        self.batches.append(batch)
        super().submit(batch)


@dataclass
class Run:
    """An engine whose steps are made one by one."""

    engine: Engine
    batches: list[ScheduledBatch]
    tokens: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)

    def start(self, name: str, prompt: list[int], output: int, *, seed: int = 0, **params: Any) -> None:
        self.tokens[name], self.logprobs[name] = [], []
        refused = self.engine.start(
            Start(id=name, attempt=0, prompt=prompt, params=SamplingParams(max_tokens=output, **params), seed=seed)
        )
        assert refused is None, refused

    def step(self) -> None:
        for output in self.engine.step().outputs:
            self.tokens[output.id] += output.ids
            self.logprobs[output.id] += output.logprobs or []

    def finish(self) -> None:
        while self.engine.num_pending:
            self.step()
        self.engine.check_integrity()


@contextmanager
def running(num_blocks: int, settings: Mapping[str, Any]) -> Iterator[Run]:
    """An engine with so many blocks of 16 tokens; ``settings`` are fields of its configuration."""
    config = EngineConfig(
        **({"model": str(PATH), "dtype": "float32", "kv_cache_memory": 1 << 26, "max_model_len": 256} | settings)
    )
    executor = _Watched(config, lambda *_: None)
    executor.batches = []
    facts = executor.load()
    assert executor.initialize_cache() >= num_blocks
    try:
        yield Run(Engine(config, executor, facts, num_blocks), executor.batches)
    finally:
        executor.shutdown()


def prompt(length: int, seed: int = 0) -> list[int]:
    """Token ids that look random and never change."""
    return [300 + (index * 7919 + seed * 104729) % 500 for index in range(length)]
