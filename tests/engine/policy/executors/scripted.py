"""An executor whose behaviour is the model's name; a module of ``engine.executor`` in the process tests."""

from __future__ import annotations

import time

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.errors import ModelError, RankError
from engine.executor.base import Executor, ModelFacts, Progress


class ScriptedExecutor(Executor):
    """Samples the number of tokens known. Warm-up is two steps."""

    def __init__(self, config: EngineConfig, progress: Progress) -> None:
        self.script = config.model
        self.progress = progress
        self.steps = 0

    def load(self) -> ModelFacts:
        if self.script == "broken model":
            raise ModelError("The weights lack lm_head.weight.")
        if self.script == "slow to load":
            time.sleep(1.2)
        self.progress("weights", 1, 2, "tensors")
        return ModelFacts(
            device="cpu",
            dtype="float32",
            parameters=7,
            weight_bytes=28,
            max_model_len=100_000,
            vocab_size=100_000,
            eos_token_ids=[2],
            fingerprint="f",
            kernels={"rms_norm": "reference"},
            block_bytes=10,
        )

    def initialize_cache(self) -> int:
        return 640

    def submit(self, batch: ScheduledBatch) -> None:
        self.batch = batch

    def collect(self) -> StepResult:
        batch = self.batch
        self.steps += 1
        if self.steps > 4:
            if self.script == "fails in the third step":
                raise ValueError("a kernel has failed")
            if self.script == "stuck in the third step":
                time.sleep(600)
        ends = batch.context_lens + batch.query_lens
        return StepResult([int(ends[s.row]) for s in batch.samples], [None] * len(batch.samples), [])

    def check(self) -> None:
        if self.script == "loses a rank while idle" and self.steps > 2:
            raise RankError("rank 1 (process 7) was killed by SIGKILL")

    def shutdown(self) -> None:
        print("executor shut down", flush=True)
