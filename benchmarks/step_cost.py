"""What a step costs outside the model: ``python -m benchmarks.step_cost``.

The engine's own classes decode streams whose model is a stand-in that samples a constant, so nothing here depends on
a model's size. Two tables: the parts of a step, each timed alone; and the time between two steps in the engine's loop,
from the end of the model's call in one to its call in the next. Times are in microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from engine.batch import ScheduledBatch, StepResult
from engine.batch_builder import BatchBuilder
from engine.block_pool import BlockPool
from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.base import Executor, ModelFacts
from engine.messages import Drain, FromEngine, Start, StepOutput, ToEngine, encode
from engine.outbox import Outbox
from engine.prefill_policy import PromptShare
from engine.process import EngineLoop
from engine.sampling_params import SamplingParams
from engine.scheduler import Scheduler
from engine.worker.input_buffers import InputBuffers
from observability.records import EngineState, StepStats

BLOCK_SIZE = 16
VOCAB_SIZE = 32_000
BUDGET = 8192
BETWEEN = ("schedule", "build", "write", "update")
MEANWHILE = ("encode", "prepare")
"""Done while the model computes, by another thread."""
FIRST = 20
"""Decoding steps that are not counted."""


def starts(rows: int, prompt: int, output: int) -> list[Start]:
    params = SamplingParams(max_tokens=output, temperature=0.0, stop_token_ids=(2,))
    return [
        Start(
            id=f"chatcmpl-{row:024}-0",
            attempt=0,
            prompt=[(row * 7919 + index) % VOCAB_SIZE for index in range(prompt)],
            params=params,
            seed=row,
        )
        for row in range(rows)
    ]


def cache_blocks(rows: int, prompt: int, output: int) -> int:
    return rows * (-(-(prompt + output) // BLOCK_SIZE) + 1)


def constant_tokens(batch: ScheduledBatch) -> StepResult:
    return StepResult([100] * len(batch.samples), [None] * len(batch.samples), [])


class Laps:
    """Seconds between one call and the next, by what was done in them."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.times[part].append(now - self._last)
        self._last = time.perf_counter()


def measure_parts(rows: int, prompt: int, output: int) -> dict[str, list[float]]:
    """Seconds of each part in each step that decodes all rows."""
    pool = BlockPool(cache_blocks(rows, prompt, output))
    scheduler = Scheduler(
        pool,
        block_size=BLOCK_SIZE,
        max_num_batched_tokens=BUDGET,
        prompt_share=PromptShare(BUDGET),
        max_num_seqs=rows,
        max_model_len=prompt + output,
        enable_prefix_caching=True,
    )
    builder = BatchBuilder(scheduler.block_tables, BLOCK_SIZE)
    buffers = InputBuffers(BUDGET, rows, scheduler.block_tables.shape[1], BLOCK_SIZE, torch.device("cpu"))
    for start in starts(rows, prompt, output):
        scheduler.add(start, 0.0)
    times: dict[str, list[float]] = defaultdict(list)
    while scheduler.num_pending:
        laps = Laps()
        plan = scheduler.schedule(0.0)
        laps.lap("schedule")
        batch = builder.build(0, plan)
        laps.lap("build")
        buffers.write(batch)
        laps.lap("write")
        builder.lay_out_ahead(scheduler.prepare(plan))
        laps.lap("prepare")
        result = constant_tokens(batch)
        laps.lap("model")
        outputs = scheduler.update(plan, result, 0.0)
        laps.lap("update")
        encode(StepOutput(started=plan.started, outputs=outputs, stats=[_stats(rows)]))
        laps.lap("encode")
        if len(batch.input_ids) == len(batch.query_lens) == rows:
            for part, seconds in laps.times.items():
                times[part] += seconds
    return {part: seconds[FIRST:] for part, seconds in times.items()}


def _stats(rows: int) -> StepStats:
    return StepStats(
        step=0,
        duration=0.0,
        scheduled_tokens=rows,
        prompt_tokens=0,
        generated_tokens=rows,
        preemptions=0,
        prefix_queries=0,
        prefix_hits=0,
        state=EngineState(running=rows, waiting=0, blocks_used=0, blocks_total=0),
    )


class Sleeper(Executor):
    """A model that takes its time and no processor."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.calls: list[tuple[float, float, int]] = []
        """Begin and end of each, and its rows where all of them decode, else 0."""

    def load(self) -> ModelFacts:
        return ModelFacts(
            device="cpu",
            dtype="float32",
            parameters=0,
            weight_bytes=0,
            max_model_len=1 << 20,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=[],
            fingerprint="",
            kernels={},
            block_bytes=1,
        )

    def initialize_cache(self) -> int:
        raise NotImplementedError("there is none")

    def submit(self, batch: ScheduledBatch) -> None:
        self._batch = batch

    def collect(self) -> StepResult:
        batch, began = self._batch, time.perf_counter()
        time.sleep(self._seconds)
        decoding = len(batch.input_ids) == len(batch.query_lens)
        self.calls.append((began, time.perf_counter(), len(batch.query_lens) if decoding else 0))
        return constant_tokens(batch)

    def check(self) -> None:
        """There is nothing to lose."""

    def shutdown(self) -> None:
        self.calls.clear()


class Pipe:
    """A transport that has everything to say at once, and encodes what it is given."""

    def __init__(self, messages: Sequence[ToEngine]) -> None:
        self._messages = list(messages)

    def send(self, message: FromEngine) -> None:
        encode(message)

    def receive(self, *, wait: bool) -> list[ToEngine]:
        messages, self._messages = self._messages, []
        return messages


def measure_gaps(rows: int, prompt: int, output: int, step: float) -> list[float]:
    """Seconds between two calls of a model that takes ``step`` seconds."""
    model = Sleeper(step)
    config = EngineConfig(model="", block_size=BLOCK_SIZE, max_num_batched_tokens=BUDGET, max_num_seqs=rows)
    engine = Engine(config, model, model.load(), cache_blocks(rows, prompt, output))
    outbox = Outbox(config.stream_interval, time.monotonic)
    EngineLoop(engine, Pipe([*starts(rows, prompt, output), Drain()]), outbox).run()
    pairs = zip(model.calls, model.calls[1:], strict=False)
    gaps = [after[0] - before[1] for before, after in pairs if before[2] == after[2] == rows]
    return gaps[FIRST:]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a step costs outside the model.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 256], help="sequences in a step")
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=250, help="tokens of each output")
    parser.add_argument("--step", type=float, default=5.0, help="milliseconds that the model takes in the second table")
    options = parser.parse_args(arguments)
    columns = [*BETWEEN, "between", *MEANWHILE, "all"]
    table = Table("rows", *columns, title=f"Parts of a step, µs, least (median); prompts of {options.prompt} tokens")
    for rows in options.rows:
        times = measure_parts(rows, options.prompt, options.output)
        sums = {"between": BETWEEN, "all": BETWEEN + MEANWHILE}
        for name, parts in sums.items():
            times[name] = [sum(step) for step in zip(*(times[part] for part in parts), strict=True)]
        table.add_row(str(rows), *[_least_and_median(times[column]) for column in columns])
    Console().print(table)
    table = Table("rows", "between two steps", title=f"The engine's loop, µs, with a model of {options.step:g} ms")
    for rows in options.rows:
        gaps = measure_gaps(rows, options.prompt, options.output, options.step / 1000)
        table.add_row(str(rows), _least_and_median(gaps))
    Console().print(table)


def _least_and_median(seconds: Sequence[float]) -> str:
    return f"{min(seconds) * 1e6:.0f} ({statistics.median(seconds) * 1e6:.0f})"


if __name__ == "__main__":
    main()
