"""What recording metrics takes of a step: ``python -m benchmarks.metrics_cost [--model DIR]``.

One engine in this process decodes streams; what it says of each step is kept, and then recorded again and again by the
clock, with a latency for each token as the gateway takes it down. Recording is done by the gateway's process, beside
the engine's next step; the last column holds it against a step all the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

# As for the engine process, before anything loads the OpenMP runtime.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from prometheus_client import CollectorRegistry

from engine.config import EngineConfig
from engine.demo_model import PATH
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start
from engine.sampling_params import SamplingParams
from observability.metrics import Metrics
from observability.records import InterTokenLatencies, StepStats

PROMPT, OUTPUT, STREAMS = 32, 64, (1, 8, 32, 128)
ROUNDS, REPEATS = 5, 2000


def steps_of(engine: Engine, streams: int, vocab_size: int) -> list[StepStats]:
    """Of the steps that decode so many streams, and nothing else."""
    params = SamplingParams(max_tokens=OUTPUT, temperature=0.0)
    for row in range(streams):
        prompt = [(row * 7919 + at) % vocab_size for at in range(PROMPT)]
        engine.start(Start(id=f"{streams}-{row}", attempt=0, prompt=prompt, params=params, seed=row))
    taken = []
    while engine.is_busy:
        taken += engine.step().stats
    return [stats for stats in taken if not stats.prompt_tokens and stats.generated_tokens == streams]


def seconds_to_record(stats: StepStats, streams: int) -> float:
    """The median of several rounds."""
    metrics = Metrics(CollectorRegistry(), model="demo", version="0")
    latencies = InterTokenLatencies(values=[stats.duration] * streams)
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(REPEATS):
            metrics.record(latencies)
            metrics.record(stats)
            metrics.record(stats.state)
        rounds.append((time.thread_time() - began) / REPEATS)
    return statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PATH, metavar="DIR", help="default: the demo model")
    model = parser.parse_args().model
    config = EngineConfig(model=str(model), max_model_len=256, kv_cache_memory=1 << 29)
    executor = UniprocExecutor(config, lambda *_: None)
    facts = executor.load()
    engine = Engine(config, executor, facts, executor.initialize_cache())
    while engine.use_idle_time():
        pass
    print("| streams | a step, ms | recording it, µs | share |\n| --- | --- | --- | --- |")
    for streams in STREAMS:
        steps = steps_of(engine, streams, facts.vocab_size)
        step = statistics.median(stats.duration for stats in steps)
        recording = seconds_to_record(steps[len(steps) // 2], streams)
        print(f"| {streams} | {step * 1e3:.2f} | {recording * 1e6:.1f} | {recording / step:.2%} |")


if __name__ == "__main__":
    main()
