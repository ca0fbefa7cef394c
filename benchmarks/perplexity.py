"""What narrower weights cost and save: ``python -m benchmarks.perplexity`` writes docs/benchmarks/quantization.md.

The demo model, as float32, bfloat16, int8 and int4, reads held-out conversations of its own corpus (its perplexity) and
answers their questions (its score). With ``--models FOLDER`` a random model of 0.4 billion parameters (M of
``benchmarks.models``, made there where it is missing) is loaded as well: bytes, peak of memory, error of its logits.
Everything runs through the engine, each kind of weights in a process of its own.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from engine.config import DType, EngineConfig, KVCacheDType
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start, Tokens
from engine.sampling_params import SamplingParams

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "engine/demo_model"
PAGE = ROOT / "docs/benchmarks/quantization.md"
LONGEST_ANSWER = 400
LOGIT_POSITIONS = 64

T = TypeVar("T")


class Kind(NamedTuple):
    """Of weights, and of the KV cache beside them."""

    dtype: DType
    quantization: str = "none"
    kv_cache_dtype: KVCacheDType = "auto"

    @property
    def name(self) -> str:
        return self.dtype if self.quantization == "none" else self.quantization


KINDS = (Kind("float32"), Kind("bfloat16"), Kind("float32", "int8"), Kind("float32", "int4"))


@dataclass(frozen=True)
class Scored:
    """A kind of weights on the demo model."""

    weight_bytes: int
    tokens: int
    perplexity: float
    answer_tokens: int
    answer_perplexity: float
    """Over what the assistant says last in each conversation."""
    right: int
    questions: int


@dataclass(frozen=True)
class Loaded:
    """A kind of weights on a random model."""

    weight_bytes: int
    peak_bytes: int
    """Of resident memory, beyond what it was before loading."""
    logits: np.ndarray
    """[LOGIT_POSITIONS, vocabulary], log-probabilities less their mean: the logits but for a constant."""


class LocalEngine:
    """An engine in this process."""

    def __init__(self, folder: Path, kind: Kind, threads: int | None) -> None:
        config = EngineConfig(
            model=str(folder),
            dtype=kind.dtype,
            quantization=kind.quantization,
            kv_cache_dtype=kind.kv_cache_dtype,
            num_threads=threads,
            max_num_seqs=64,
        )
        self.executor = UniprocExecutor(config, lambda *_: None)
        self.facts = self.executor.load()
        blocks = self.executor.initialize_cache()
        self.engine = Engine(config, self.executor, self.facts, blocks)

    def run(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[list[Tokens]]:
        """Everything that each prompt gave."""
        outputs: dict[str, list[Tokens]] = {str(number): [] for number in range(len(prompts))}
        for number, prompt in enumerate(prompts):
            rejected = self.engine.start(Start(id=str(number), attempt=0, prompt=prompt, params=params, seed=0))
            assert rejected is None, rejected
        while self.engine.num_pending:
            for output in self.engine.step().outputs:
                outputs[output.id].append(output)
        return list(outputs.values())


def score(kind: Kind, threads: int | None, count: int) -> Scored:
    """``count`` held-out conversations of each skill."""
    from tokenizers import Tokenizer

    from demo.score import is_right, make_items
    from demo.template import END, render

    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    engine = LocalEngine(DEMO, kind, threads)
    items = [item for item in make_items(count) if not item.skill.startswith("first tries")]
    questions = [encode(render(item.messages, item.tools, generate=True)) for item in items]
    whole = [encode(render([*item.messages, item.expected], item.tools)) for item in items]
    read = engine.run(whole, SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0))
    logprobs = [[entry.logprob for output in outputs for entry in output.prompt_logprobs or ()] for outputs in read]
    # The first token has no log-probability, so those of the answer begin one place earlier.
    answers = [found[len(question) - 1 :] for found, question in zip(logprobs, questions, strict=True)]
    (end,) = encode(END)
    params = SamplingParams(max_tokens=LONGEST_ANSWER, temperature=0.0, stop_token_ids=(end,))
    for item, outputs in zip(items, engine.run(questions, params), strict=True):
        ids = [token for output in outputs for token in output.ids]
        item.answer = tokenizer.decode(ids[:-1]) if ids[-1] == end else None
    return Scored(
        weight_bytes=engine.facts.weight_bytes,
        tokens=sum(map(len, logprobs)),
        perplexity=_perplexity(logprobs),
        answer_tokens=sum(map(len, answers)),
        answer_perplexity=_perplexity(answers),
        right=sum(map(is_right, items)),
        questions=len(items),
    )


def _perplexity(logprobs: Sequence[Sequence[float]]) -> float:
    """e to the mean surprise of a token."""
    return math.exp(-sum(map(sum, logprobs)) / sum(map(len, logprobs)))


def load(kind: Kind, threads: int | None, folder: Path) -> Loaded:
    import torch  # so that its import is no part of what loading takes

    torch.zeros(1)
    before = _resident("VmRSS")
    engine = LocalEngine(folder, kind, threads)
    peak = _resident("VmHWM") - before
    vocabulary = engine.facts.vocab_size
    prompt = np.random.default_rng(0).integers(100, 1000, LOGIT_POSITIONS + 1).tolist()
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=vocabulary)
    logits = np.empty((LOGIT_POSITIONS, vocabulary))
    entries = [entry for output in engine.run([prompt], params)[0] for entry in output.prompt_logprobs or ()]
    for row, entry in zip(logits, entries, strict=True):
        row[entry.top_ids] = entry.top_logprobs
    return Loaded(engine.facts.weight_bytes, peak, logits - logits.mean(1, keepdims=True))


def _resident(name: str) -> int:
    """Bytes that this process holds now (``VmRSS``) or held at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a call in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def demo_table(count: int, threads: int | None) -> str:
    rows = []
    for kind in KINDS:
        found = alone(score, kind, threads, count)
        print(kind.name, found, flush=True)
        cells = (
            kind.name,
            f"{found.weight_bytes / 2**20:.2f} MiB",
            f"{found.perplexity:.4f}",
            f"{found.answer_perplexity:.4f}",
            f"{100 * found.right / found.questions:.1f} %",
        )
        rows.append(cells)
    about = (
        f"Held-out conversations of the demo corpus, {count} of each skill: {found.questions:,} conversations, "
        f"{found.tokens:,} tokens, {found.answer_tokens:,} of them the answers that the score is about. "
        "The checkpoint is in bfloat16: the first two rows differ in the KV cache alone.\n\n"
    )
    head = ("weights", "bytes held", "perplexity, all tokens", "perplexity, answers", "right answers")
    return about + _table(head, rows)


def random_table(models: Path, threads: int | None) -> str:
    from benchmarks.models import make

    folder, rows, exact = make(models, "M"), [], None
    for kind in KINDS:
        found = alone(load, kind, threads, folder)
        exact = found.logits if exact is None else exact
        error = float(np.sqrt(np.square(found.logits - exact).mean() / np.square(exact).mean()))
        cells = (
            kind.name,
            f"{found.weight_bytes / 2**20:,.0f} MiB",
            f"{found.peak_bytes / 2**20:,.0f} MiB",
            f"{100 * error:.2f} %",
        )
        print(*cells, flush=True)
        rows.append(cells)
    about = (
        "Random weights (M of `benchmarks.models`, 0.4 billion parameters, a float32 checkpoint of 1,475 MiB). The "
        "peak is of resident memory, less what Python and torch took before; it includes what is mapped of the file, "
        "the KV cache and the threads. The error is the root mean square difference from float32's logits, relative "
        f"to theirs, over {LOGIT_POSITIONS} positions: what 24 layers make of the errors of their weights. What it "
        "means for a trained model, the table above shows.\n\n"
    )
    head = ("weights", "bytes held", "peak while loading", "error of the logits")
    return about + _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="held-out conversations of each skill")
    parser.add_argument("--threads", type=int, help="that compute; by default one for each core")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="where the random model is, or will be made")
    options = parser.parse_args()
    parts = [
        f"<!-- Written by `python -m benchmarks.perplexity --count {options.count} --models FOLDER`. -->\n",
        "# What quantization costs and saves\n",
        "How it is done stands in [quantization.md](../quantization.md).\n",
        f"## The demo model\n\n{demo_table(options.count, options.threads)}",
    ]
    if options.models is not None:
        parts.append(f"## A random model\n\n{random_table(options.models, options.threads)}")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
