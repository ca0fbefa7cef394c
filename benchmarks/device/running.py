"""The whole engine in this process: models of random weights, and the times of their steps."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.batch import SampleRequest
from engine.companion import Companion
from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start, Tokens
from engine.sampling_params import SamplingParams
from engine.worker.sampler import Drawn, Launched
from observability.records import StepStats

NOT_COUNTED = 3
"""Steps of decoding before those that are timed: something may be compiled or captured in the first."""


class Step(NamedTuple):
    seconds: float
    """From its beginning to that of the next."""
    between: float
    """Of these, what passed outside of computing."""
    gap: float
    """Between the end of the step before and the launch of this one: none where it was launched earlier."""
    stats: StepStats
    outputs: list[Tokens]


class Decoding(NamedTuple):
    tokens_per_second: float
    step_ms: float
    between_share: float
    """Of a step: while the engine does what does not overlap with the device."""
    gap_ms: float
    """Between the end of a step and the launch of the next."""
    context: float
    """Tokens of each sequence in the cache, on average."""


class Model:
    """One engine. ``close`` gives its memory back."""

    def __init__(self, folder: Path, device: str, *, small: bool, **settings: Any) -> None:
        """``settings``: of the engine, beside those that follow from the rest."""
        began = time.perf_counter()
        config = EngineConfig(
            model=str(folder),
            load_format="dummy",
            dtype="bfloat16",
            device="cuda" if device == "cuda" else "cpu",
            max_model_len=256 if small else 2048,
            max_num_seqs=16 if small else 256,
            max_num_batched_tokens=64 if small else 8192,
            kv_cache_memory=1 << 25 if small else None,
            enable_prefix_caching=False,
            **settings,
        )
        self._executor = UniprocExecutor(config, lambda *_: None)
        self.facts = self._executor.load()
        blocks = self._executor.initialize_cache()
        self._engine = Engine(config, self._executor, self.facts, blocks)
        self._companion = Companion("prepares")
        self._draw = random.Random(0)
        self.start_seconds = time.perf_counter() - began

    def close(self) -> None:
        self._companion.close()
        self._executor.shutdown()
        del self._engine, self._executor
        gc.collect()  # A graph knows what it was made of, which knows the graph.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prompt(self, length: int) -> list[int]:
        return [self._draw.randrange(10, self.facts.vocab_size) for _ in range(length)]

    def steps(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Iterator[Step]:
        """Until all have their output. While a step is computed the next is prepared, as in a server."""
        engine = self._engine
        for number, prompt in enumerate(prompts):
            refused = engine.start(Start(id=str(number), attempt=0, prompt=list(prompt), params=params, seed=number))
            if refused is not None:
                raise RuntimeError(refused.message)
        ended_before: float | None = None
        while engine.is_busy:
            began = time.perf_counter()
            engine.begin()
            computing = time.perf_counter()
            gap = 0.0 if ended_before is None else computing - ended_before
            self._companion.start(engine.prepare)
            engine.compute()
            computed = time.perf_counter()
            self._companion.join()
            output = engine.finish()
            ended = time.perf_counter()
            ended_before = None if engine.under_way else computed
            yield Step(ended - began, ended - began - (computed - computing), gap, output.stats[-1], output.outputs)

    def decode(self, streams: int, prompt: int, output: int) -> Decoding:
        """Of steps in which so many streams are decoded and no prompt is read."""
        params = SamplingParams(max_tokens=output + NOT_COUNTED, temperature=0.0)
        prompts = [self.prompt(prompt) for _ in range(streams)]
        alone = [
            step
            for step in self.steps(prompts, params)
            if not step.stats.prompt_tokens and step.stats.generated_tokens == streams
        ][NOT_COUNTED - 1 :]
        seconds = statistics.median(step.seconds for step in alone)
        between = statistics.median(step.between for step in alone)
        gap = statistics.median(step.gap for step in alone)
        context = prompt + NOT_COUNTED + len(alone) / 2
        return Decoding(streams / seconds, 1e3 * seconds, between / seconds, 1e3 * gap, context)

    def prefill(self, prompts: int, length: int) -> float:
        """Tokens of prompts read in a second; the second of two runs."""
        for _ in range(2):
            made = [self.prompt(length) for _ in range(prompts)]
            seconds = sum(step.seconds for step in self.steps(made, SamplingParams(max_tokens=1, temperature=0.0)))
        return prompts * length / seconds

    def whole(self, streams: int, prompt: int, output: int) -> float:
        """Tokens of output in a second, prompts included in the time."""
        params = SamplingParams(max_tokens=output, temperature=0.0)
        prompts = [self.prompt(prompt) for _ in range(streams)]
        return streams * output / sum(step.seconds for step in self.steps(prompts, params))

    def logits(self, prompts: Sequence[Sequence[int]], output: int) -> Tensor:
        """Of the first prompt's ``output`` tokens [output, V], as the model hands them to the sampler.

        The prompts are served together.
        """
        sampler = self._executor._worker._runner._sampler
        seen: list[Tensor] = []
        launch = sampler.launch

        def watched(drawn: Drawn, requests: Sequence[SampleRequest]) -> Launched:
            seen.extend(drawn.logits[request.row].clone() for request in requests if request.seed == 0)
            return launch(drawn, requests)

        sampler.launch = watched
        try:
            for step in self.steps(prompts, SamplingParams(max_tokens=output, temperature=0.0)):
                for each in step.outputs:
                    if each.failure is not None:
                        raise RuntimeError(each.failure)
        finally:
            sampler.launch = launch
        return torch.stack(seen[:output])  # A step may be launched after the last.
