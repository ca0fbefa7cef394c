"""What ranks cost and whether they agree: ``python -m benchmarks.parallel --layouts 1x1 2x1 1x2 2x2``.

Several ranks on one CPU share its cores, so nothing gets faster by them: what is shown is what their messages cost.
Each layout, tensor x pipeline, computes the same greedy answers; with ``gather`` they must be those of one rank.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

import engine.demo_model
from engine.config import EngineConfig, TPReduce
from engine.engine import Engine
from engine.executor import find_executor
from engine.messages import Start, TokenLogprobs
from engine.sampling_params import SamplingParams

NUM_BLOCKS = 2048


@dataclass(frozen=True)
class Layout:
    tensor: int
    stages: int
    reduce: TPReduce

    @classmethod
    def of(cls, text: str) -> Layout:
        """``2x1``, or ``2x1a`` for ``--tp-reduce allreduce``."""
        tensor, stages = text.removesuffix("a").split("x")
        return cls(int(tensor), int(stages), "allreduce" if text.endswith("a") else "gather")

    def __str__(self) -> str:
        return f"{self.tensor} x {self.stages}" + (" allreduce" if self.reduce == "allreduce" else "")


@dataclass
class Answers:
    tokens: dict[str, list[int]] = field(default_factory=dict)
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    at: list[float] = field(default_factory=list)
    """When each token was known that was decoded beside all other streams, in seconds."""
    fingerprint: str = ""


def answer(folder: Path, layout: Layout, streams: int, prompt: int, output: int, quantization: str) -> Answers:
    config = EngineConfig(
        model=str(folder),
        tensor_parallel_size=layout.tensor,
        pipeline_parallel_size=layout.stages,
        tp_reduce=layout.reduce,
        quantization=quantization,
        kv_cache_memory=1 << 30,
        log_level="warning",
    )
    executor = find_executor(config.executor, config.ranks)(config, lambda *_: None)
    try:
        facts = executor.load()
        blocks = min(NUM_BLOCKS, executor.initialize_cache())
        loaded = Engine(config, executor, facts, blocks)
        draw, answers = random.Random(0), Answers(fingerprint=facts.fingerprint)
        for number in range(streams):
            ids = [draw.randrange(facts.vocab_size) for _ in range(prompt)]
            params = SamplingParams(max_tokens=output, temperature=0.0, prompt_logprobs=0)
            loaded.start(Start(id=str(number), attempt=0, prompt=ids, params=params, seed=0))
        while loaded.is_busy:
            step = loaded.step()
            if len(answers.tokens) == streams == loaded.num_pending:
                answers.at += [time.perf_counter()] * len(step.outputs)
            for each in step.outputs:
                answers.tokens.setdefault(each.id, []).extend(each.ids)
                if each.prompt_logprobs is not None:
                    answers.prompt_logprobs[each.id] = each.prompt_logprobs
        return answers
    finally:
        executor.shutdown()


def compare(one: Answers, other: Answers) -> tuple[float, float]:
    """(share of tokens that stand before the first difference of their answer, greatest difference of a logprob)."""
    same = 0
    for name, tokens in one.tokens.items():
        pairs = enumerate(zip(tokens, other.tokens[name], strict=True))
        same += next((place for place, (mine, theirs) in pairs if mine != theirs), len(tokens))
    differences = [
        abs(mine.logprob - theirs.logprob)
        for name, scores in one.prompt_logprobs.items()
        for mine, theirs in zip(scores, other.prompt_logprobs[name], strict=True)
    ]
    return same / sum(map(len, one.tokens.values())), max(differences)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What ranks cost on this CPU, and whether they agree with one.")
    parser.add_argument("--model", type=Path, default=Path(engine.demo_model.__file__).parent, help="local folder")
    parser.add_argument(
        "--layouts", nargs="+", default=["1x1", "2x1", "2x1a", "1x2", "2x2"], help="the first is compared with"
    )
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=128, help="tokens of each answer")
    options = parser.parse_args(arguments)
    table = Table("tensor x stages", "tokens/s", "tokens as one rank", "logprob differs by", "fingerprint")
    first: Answers | None = None
    for layout in map(Layout.of, options.layouts):
        found = answer(options.model, layout, options.streams, options.prompt, options.output, options.quantization)
        first = first or found
        share, difference = compare(first, found)
        rate = (len(found.at) - options.streams) / (found.at[-1] - found.at[0])
        table.add_row(str(layout), f"{rate:.0f}", f"{share:.2%}", f"{difference:.2g}", found.fingerprint[:8])
    Console().print(table)


if __name__ == "__main__":
    main()
