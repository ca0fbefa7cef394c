"""Engines over executors of several layouts, and what they say about the same requests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor import find_executor
from engine.executor.base import Executor, ModelFacts
from engine.executor.multiproc import MultiprocExecutor
from engine.messages import Start, TokenLogprobs
from engine.sampling_params import SamplingParams

OUTPUT = 14
NUM_BLOCKS = 26
"""Fewer than the requests want at once, so that some are preempted."""


def requests() -> list[Start]:
    """Prompts of one token to several steps, with and without a common beginning, sampled in every way."""
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, 160) for _ in range(count)]

    shared = ids(50)
    prompts = [ids(1), shared + ids(5), ids(9), shared + ids(23), ids(90), shared[:30], ids(16)]
    params = [
        SamplingParams(max_tokens=OUTPUT, temperature=(0.0, 1.0, 0.7)[number % 3], logprobs=3)
        for number in range(len(prompts))
    ]
    params[2] = msgspec.structs.replace(params[2], prompt_logprobs=2)
    params[4] = msgspec.structs.replace(params[4], repetition_penalty=1.3, logit_bias={7: 2.0}, min_tokens=4)
    return [
        Start(id=str(number), attempt=0, prompt=prompt, params=each, seed=number)
        for number, (prompt, each) in enumerate(zip(prompts, params, strict=True))
    ]


@dataclass
class Said:
    """By request: the tokens, their log-probabilities and those of the prompt."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)


class Ranks:
    """An executor, of which ranks that are processes load one model after another."""

    def __init__(self, **config: Any) -> None:
        settings = {"num_threads": 2, "block_size": 5, "max_num_batched_tokens": 24, "kv_cache_memory": 1 << 22}
        self.config = EngineConfig(model="", max_num_mixed_prefill_tokens=16, **(settings | config))
        self.executor = self.make()
        self.facts: ModelFacts

    def make(self) -> Executor:
        return find_executor(self.config.executor, self.config.ranks)(self.config, lambda *_: None)

    def load(self, folder: Path, **config: Any) -> None:
        self.config = msgspec.structs.replace(self.config, model=str(folder), **config)
        if isinstance(self.executor, MultiprocExecutor):
            self.executor._config = self.config
        else:
            self.executor = self.make()
        self.facts = self.executor.load()
        assert self.executor.initialize_cache() >= NUM_BLOCKS

    def generate(self) -> Said:
        """Requests arrive one after another; prompts are cut, shared and preempted on the way."""
        engine = Engine(self.config, self.executor, self.facts, NUM_BLOCKS)
        said, waiting = Said(), requests()
        stats = []
        while waiting or engine.is_busy:
            if waiting:
                engine.start(waiting.pop(0))
            output = engine.step()
            stats += output.stats
            for each in output.outputs:
                said.tokens.setdefault(each.id, []).extend(each.ids)
                said.logprobs.setdefault(each.id, []).extend(each.logprobs or [])
                if each.prompt_logprobs is not None:
                    said.prompt_logprobs[each.id] = each.prompt_logprobs
        engine.check_integrity()
        assert sum(each.preemptions for each in stats) > 0
        assert sum(each.prefix_hits for each in stats) > 0
        assert len(said.tokens) == 7 and all(len(ids) == OUTPUT for ids in said.tokens.values())
        return said


@pytest.fixture(scope="session")
def run_ranks() -> Any:
    """``with run_ranks(**config) as ranks``: started, to be told what to load."""

    @contextmanager
    def run(**config: Any) -> Iterator[Ranks]:
        threads = torch.get_num_threads()
        ranks = Ranks(**config)
        try:
            yield ranks
        finally:
            ranks.executor.shutdown()
            torch.set_num_threads(threads)

    return run
