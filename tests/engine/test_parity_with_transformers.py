"""Greedy output is token-identical to Hugging Face transformers in float32, alone and in a crowd.

A difference is excused only where transformers' own two best logits are closer than ``NEAR_TIE``; the count is printed.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.demo_model import PATH as DEMO
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start
from engine.sampling_params import SamplingParams

NEAR_TIE = 1e-4
OUTPUT = 24
CONTEXT = 1024
ARCHITECTURES = {
    "LlamaForCausalLM": {
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
        },
    },
    "MistralForCausalLM": {"sliding_window": 96, "head_dim": 16},
    "Qwen2ForCausalLM": {"tie_word_embeddings": True},
    "Qwen3ForCausalLM": {"head_dim": 16},
}  # fmt: skip


def make_prompts(vocab_size: int) -> list[list[int]]:
    """50 prompts of 1 to 900 tokens, half of which begin with one of three shared prefixes."""
    rng = random.Random(3)
    prefixes = [[rng.randrange(vocab_size) for _ in range(length)] for length in (40, 170, 333)]
    lengths = [1, 2, 15, 16, 17, 900, *(rng.randrange(3, 900) for _ in range(44))]
    prompts = []
    for number, length in enumerate(lengths):
        start = rng.choice(prefixes) if number % 2 else []
        prompts.append((start + [rng.randrange(vocab_size) for _ in range(length)])[:length])
    return prompts


def make_engine(folder: Path) -> Engine:
    """Small steps, so that every longer prompt is computed in chunks."""
    config = EngineConfig(
        model=str(folder),
        dtype="float32",
        max_num_batched_tokens=192,
        max_num_seqs=32,
        kv_cache_memory=64 * 2**20,
        max_model_len=CONTEXT,
        num_threads=1,
    )
    executor = UniprocExecutor(config, lambda *_: None)
    facts = executor.load()
    return Engine(config, executor, facts, executor.initialize_cache())


def generate(engine: Engine, prompts: list[list[int]], *, at_once: int) -> tuple[list[list[int]], int]:
    """Outputs in the order of the prompts, and how many prompt tokens came from the prefix cache."""
    params = SamplingParams(max_tokens=OUTPUT, temperature=0.0)
    waiting = iter(enumerate(prompts))
    outputs: list[list[int]] = [[] for _ in prompts]
    hits = 0
    while True:
        for number, prompt in itertools.islice(waiting, at_once - engine.num_pending):
            assert engine.start(Start(id=str(number), attempt=1, prompt=prompt, params=params, seed=0)) is None
        if not engine.num_pending:
            break
        step = engine.step()
        hits += step.stats[0].prefix_hits
        for tokens in step.outputs:
            outputs[int(tokens.id)] += tokens.ids
    engine.check_integrity()
    return outputs, hits


def count_near_ties(model: Any, answers: list[tuple[list[int], list[int]]]) -> int:
    """Fails where an output of (prompt, output) is not transformers' own; returns how many differences a near tie
    excuses.

    Every position is judged on the output before it, so that one excused difference excuses no other.
    """
    near_ties = 0
    for number, (prompt, output) in enumerate(answers):
        assert len(output) == OUTPUT
        with torch.no_grad():
            logits = model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(2)
        for position, token in enumerate(output):
            if token == best.indices[position, 0]:
                continue
            gap = float(best.values[position, 0] - best.values[position, 1])
            assert token == best.indices[position, 1] and gap < NEAR_TIE, (
                f"prompt {number} of {len(prompt)} tokens, output {position}: {token} is not transformers' "
                f"{best.indices[position].tolist()}, which are {gap:.2g} apart"
            )
            near_ties += 1
    return near_ties


@pytest.mark.parametrize("name", ["demo", *ARCHITECTURES])
def test_greedy_output_is_that_of_transformers(name: str, make_checkpoint: Any, capsys: pytest.CaptureFixture) -> None:
    import transformers

    folder = DEMO
    if name != "demo":
        folder = make_checkpoint(name, max_position_embeddings=CONTEXT, **ARCHITECTURES[name])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = make_prompts(model.config.vocab_size)
    engine = make_engine(folder)
    crowd, hits = generate(engine, prompts, at_once=32)
    alone, more_hits = generate(engine, prompts, at_once=1)
    assert hits > 300, "the shared prefixes were not shared"
    assert more_hits > sum(map(len, prompts)) // 2, "the second time, most of each prompt is in the cache"
    both = [*zip(prompts, crowd, strict=True), *zip(prompts, alone, strict=True)]
    answers = [answer for number, answer in enumerate(both) if answer not in both[:number]]
    near_ties = count_near_ties(model, answers)
    with capsys.disabled():
        print(f"\n{name}: {near_ties} of {OUTPUT * len(answers)} tokens are excused by a near tie")
