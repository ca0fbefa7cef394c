"""The whole engine on Triton's kernels in Triton's interpreter: ``python on_triton.py FOLDER QUANTIZATION``.

Requests of several kinds, their steps padded as for CUDA graphs, against the same on the kernels of the CPU. Prints
what differs. A process of its own, as Triton decides to interpret when it is imported.
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start, TokenLogprobs
from engine.sampling_params import SamplingParams
from engine.worker import worker
from kernels.registry import Machine

PARAMS = [
    SamplingParams(max_tokens=3, temperature=0.0, logprobs=3),
    SamplingParams(max_tokens=2, temperature=0.8, top_k=20, top_p=0.9),
    SamplingParams(max_tokens=2, temperature=1.2, min_p=0.02, presence_penalty=0.5, logprobs=0),
]


class Again:
    """In place of CUDA graphs: a replay computes once more."""

    def capture(self, run):
        found = run()

        def replay():
            for kept, new in zip(_tensors(found), _tensors(run()), strict=True):
                kept.copy_(new)

        return found, replay


def _tensors(found):
    """Of a step, hidden states and what is drawn; of a piece of one, a list."""
    return (found[0], *found[1]) if isinstance(found, tuple) else found


def answers(folder: str, quantization: str) -> tuple[dict[str, list[tuple[int, TokenLogprobs | None]]], dict[str, str]]:
    config = EngineConfig(
        model=folder, quantization=quantization, num_threads=1, block_size=4, max_num_seqs=4, max_model_len=64,
        max_num_batched_tokens=16, kv_cache_memory=1 << 20,
    )  # fmt: skip
    executor = UniprocExecutor(config, lambda *_: None)
    facts = executor.load()
    engine = Engine(config, executor, facts, executor.initialize_cache())
    found: dict[str, list[tuple[int, TokenLogprobs | None]]] = {}
    for number, params in enumerate(PARAMS):
        prompt = [(7 * number + 3 * place) % facts.vocab_size for place in range(3 + 4 * number)]
        engine.start(Start(id=str(number), attempt=0, prompt=prompt, params=params, seed=number))
    while engine.is_busy:
        for output in engine.step().outputs:
            assert output.failure is None and output.refusal is None, output
            logprobs = output.logprobs or [None] * len(output.ids)
            found.setdefault(output.id, []).extend(zip(output.ids, logprobs, strict=True))
    return found, facts.kernels


def main() -> None:
    folder, quantization = sys.argv[1:]
    expected, _ = answers(folder, quantization)
    Machine.detect = classmethod(lambda *_, **options: Machine("cuda", "sm_90", "interpreted", 1, **options))
    worker.choose_capturing = lambda *_: Again()
    found, kernels = answers(folder, quantization)
    of_torch = {"linear"} if quantization == "none" else {"quantize"}
    others = {op for op, provider in kernels.items() if provider != "triton"}
    problems = [f"not by Triton: {others - of_torch}"] if others - of_torch else []
    for name, tokens in expected.items():
        if [token for token, _ in found[name]] != [token for token, _ in tokens]:
            problems.append(f"request {name}: {found[name]} in place of {tokens}")
        for (_, one), (_, other) in zip(found[name], tokens, strict=False):
            if (one is None) != (other is None):
                problems.append(f"request {name}: log-probabilities for one only")
            elif one is not None and other is not None:
                mine, its = ([each.logprob, *each.top_logprobs] for each in (one, other))
                if not torch.allclose(torch.tensor(mine), torch.tensor(its), atol=1e-3):
                    problems.append(f"request {name}: {mine} in place of {its}")
    print("\n".join(problems))
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
