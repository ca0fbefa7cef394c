"""Where a step's time goes on a CPU, kernel by kernel: ``python -m benchmarks.step_profile --model DIR``.

One engine in this process decodes 1, 8 and 32 streams after prompts of 128 tokens, and reads four such prompts in a
step. The kernels of a step are called one by one and timed, which costs each some microseconds more than in the single
call that the engine makes. Beside the matrix products stands what the machine kept up right before or after.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

# As for the engine process, before anything loads the OpenMP runtime.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from benchmarks import roofline
from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start
from engine.sampling_params import SamplingParams
from kernels.providers.cpu.library import Timing
from kernels.providers.cpu.recording import Recorded
from observability.records import StepStats

PROMPT, OUTPUT, STREAMS = 128, 64, (1, 8, 32)
FORMAT_BYTES = (4, 2, 2, 1, 18 / 32)
"""Of a weight in each of the formats of ``native/numbers.h``; INT4 with its share of a group's scale."""


class Profile:
    """The steps of one kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        """Of a kernel in each step, all its launches together."""
        self.flop: dict[str, float] = {}
        self.bytes: dict[str, float] = {}
        """Of a matrix product in one step: its multiplications and additions, and its weights."""

    def add(self, timings: Sequence[Timing]) -> None:
        step: dict[str, float] = defaultdict(float)
        flop: dict[str, float] = defaultdict(float)
        size: dict[str, float] = defaultdict(float)
        for timing in timings:
            name = timing.kernel
            if name == "linear":
                k, n = timing.arguments.in_features, timing.arguments.out_features
                name = f"linear {k} → {n}"
                flop[name] += 2.0 * timing.rows * k * n
                size[name] += k * n * FORMAT_BYTES[timing.arguments.format]
            step[name] += timing.seconds
        for name, seconds in step.items():
            self.seconds[name].append(seconds)
        self.flop, self.bytes = flop, size

    def table(self, limits: roofline.Limits) -> list[str]:
        medians = {name: statistics.median(times) for name, times in self.seconds.items()}
        whole = sum(medians.values())
        lines = ["| kernel | ms | share | GB/s | GFLOP/s |", "| --- | --- | --- | --- | --- |"]
        for name, seconds in sorted(medians.items(), key=lambda item: -item[1]):
            rates = "|  |"
            if name in self.flop:
                read, computed = self.bytes[name] / seconds, self.flop[name] / seconds
                rates = (
                    f"| {read / 1e9:.1f} ({read / limits.read:.0%}) "
                    f"| {computed / 1e9:.0f} ({computed / limits.compute:.0%})"
                )
            lines.append(f"| {name} | {seconds * 1e3:.2f} | {seconds / whole:.1%} {rates} |")
        lines.append(f"| all of {len(next(iter(self.seconds.values())))} steps' medians | {whole * 1e3:.1f} | | | |")
        return lines


class Profiler:
    """An engine whose replayed passes are timed."""

    def __init__(self, model: Path) -> None:
        config = EngineConfig(model=str(model), max_model_len=1024, kv_cache_memory=1 << 29)
        executor = UniprocExecutor(config, lambda *_: None)
        facts = executor.load()
        self._engine = Engine(config, executor, facts, executor.initialize_cache())
        self._vocab_size = facts.vocab_size
        # No door leads there: nothing but this script looks into a step.
        replay = executor._worker._runner._replay
        if not isinstance(replay, Recorded):
            raise SystemExit("there are no compiled kernels for this machine: nothing is replayed")
        self._program = replay.program
        replay.run = self._run  # type: ignore[method-assign]
        self._timings: list[Timing] = []
        self._draw = random.Random(0)
        while self._engine.use_idle_time():
            pass

    def _run(self, tokens: int, sequences: int) -> None:
        self._timings = self._program.timed(tokens, sequences)

    def decode(self, streams: int) -> Profile:
        """Steps that decode so many streams."""
        profile = Profile()
        for stats in self._steps(streams, OUTPUT):
            if not stats.prompt_tokens and stats.generated_tokens == streams:
                profile.add(self._timings)
        return profile

    def read(self) -> Profile:
        """Steps that read four prompts, one after the other."""
        profile = Profile()
        for _ in range(10):
            for stats in self._steps(4, 1):
                if stats.prompt_tokens == 4 * PROMPT:
                    profile.add(self._timings)
        return profile

    def _steps(self, streams: int, output: int) -> Iterator[StepStats]:
        """Those of so many requests at once, with prompts that are new each time."""
        params = SamplingParams(max_tokens=output, temperature=0.0)
        for number in range(streams):
            ids = [self._draw.randrange(10, self._vocab_size) for _ in range(PROMPT)]
            self._engine.start(Start(id=str(number), attempt=0, prompt=ids, params=params, seed=0))
        while self._engine.num_pending:
            yield self._engine.step().stats[-1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    profiler = Profiler(options.model)
    parts = {f"Decoding {streams} at a time": partial(profiler.decode, streams) for streams in STREAMS}
    parts[f"Reading {4 * PROMPT} tokens of prompts"] = profiler.read
    profiler.read()  # Not counted: memory is touched for the first time, and the processor's clock rises.
    lines = ["# Where a step's time goes", "", (__doc__ or "").partition("\n\n")[2].strip()]
    with roofline.gauge() as gauge:
        for title, profile in parts.items():
            before = gauge()
            timed = profile()
            limits = before.better(gauge())
            can = f"The machine read {limits.read / 1e9:.1f} GB/s and computed {limits.compute / 1e9:.0f} GFLOP/s."
            lines += ["", f"## {title}", "", can, "", *timed.table(limits)]
    text = "\n".join([*lines, ""])
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
