"""What grammars add to a step: ``python -m benchmarks.structured_output MODEL``.

An engine in this process decodes the same batch twice over, by a JSON Schema and without one; both sequences have as
many tokens and no end. The rounds of the two alternate, so that a slow spell of the machine meets both. The table has
the time of a decoding step, and what of the difference the sampler itself accounts for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.grammar import Grammar
from engine.messages import Start
from engine.sampling_params import SamplingParams

SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "price": {"type": "number"},
            "tags": {"type": "array", "items": {"enum": ["new", "old", "rare"]}},
            "made": {"type": "string", "format": "date"},
        },
        "required": ["name", "price", "tags", "made"],
        "additionalProperties": False,
    },
    "minItems": 10_000,
}
"""Longer than any answer here: the sequences of a round are equally many in each of its steps."""
FIRST = 8
"""Decoding steps of a round that are not counted."""


@dataclass
class Times:
    """Seconds of each decoding step."""

    steps: list[float] = field(default_factory=list)
    sampler: list[float] = field(default_factory=list)
    """After the model, until the tokens are known."""


class Measured:
    def __init__(self, model: Path, rows: int, prompt: int, output: int, threads: int | None) -> None:
        self._rows, self._prompt, self._output = rows, prompt, output
        self._config = EngineConfig(
            model=str(model),
            max_model_len=prompt + output,
            max_num_seqs=rows,
            max_num_batched_tokens=max(512, rows * prompt),
            enable_prefix_caching=False,
            num_threads=threads,
            executor="uniproc",
        )
        self._executor = UniprocExecutor(self._config, lambda *_: None)
        self._facts = self._executor.load()
        self._blocks = self._executor.initialize_cache()
        self._sampler = self._executor._worker._runner._sampler

    def round(self, grammar: Grammar | None) -> Times:
        """One batch from its prompts to its end."""
        engine = Engine(self._config, self._executor, self._facts, self._blocks)
        for row in range(self._rows):
            params = SamplingParams(max_tokens=self._output, temperature=1.0)
            ids = [(row * 7919 + at) % self._facts.vocab_size for at in range(self._prompt)]
            engine.start(Start(id=str(row), attempt=0, prompt=ids, params=params, seed=row, grammar=grammar))
        times, finish = Times(), self._sampler.finish

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            sampled = finish(*arguments)
            times.sampler.append(time.perf_counter() - began)
            return sampled

        self._sampler.finish = timed  # type: ignore[method-assign]
        try:
            while engine.is_busy:
                began = time.perf_counter()
                stats = engine.step().stats[0]
                if stats.generated_tokens == stats.scheduled_tokens == self._rows:
                    times.steps.append(time.perf_counter() - began)
                else:
                    times.sampler.pop()
        finally:
            self._sampler.finish = finish  # type: ignore[method-assign]
        return Times(times.steps[FIRST:], times.sampler[FIRST:])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What grammars add to a decoding step.")
    parser.add_argument("model", type=Path, help="folder of a model with a tokenizer")
    parser.add_argument("--rows", type=int, default=32, help="sequences in a step")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=64, help="tokens of each output")
    parser.add_argument("--rounds", type=int, default=4, help="of each kind")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    measured = Measured(options.model, options.rows, options.prompt, options.output, options.threads)
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    kinds: dict[str, Grammar | None] = {"free": None, "by a schema": grammar}
    found = {name: Times() for name in kinds}
    for each in kinds.values():
        measured.round(each)  # Compiles, and touches memory for the first time.
    for _ in range(options.rounds):
        for name, each in kinds.items():
            times = measured.round(each)
            found[name].steps += times.steps
            found[name].sampler += times.sampler
    table = Table("answers", "steps", "step, ms", "of it sampler, ms", "more, %", title=f"{options.rows} sequences")
    base = statistics.median(found["free"].steps)
    for name, times in found.items():
        step, sampler = statistics.median(times.steps), statistics.median(times.sampler)
        more = (step / base - 1) * 100
        table.add_row(name, str(len(times.steps)), f"{step * 1e3:.3f}", f"{sampler * 1e3:.3f}", f"{more:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
