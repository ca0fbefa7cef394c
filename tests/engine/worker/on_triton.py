"""The whole engine on Triton's kernels in Triton's interpreter: ``python on_triton.py FOLDER QUANTIZATION``.

Requests of several kinds, their steps padded as for CUDA graphs, against the same on the kernels of the CPU, and some
of them over a cache in int8. Prints what differs. A process of its own, as Triton decides to interpret when it is
imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ["TRITON_INTERPRET"] = "1"

import torch

from engine.config import EngineConfig, KVCacheDType
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start, TokenLogprobs
from engine.sampling_params import SamplingParams
from engine.worker import worker
from kernels.registry import Machine

Answers = dict[str, list[tuple[int, TokenLogprobs | None]]]
PARAMS = [
    SamplingParams(max_tokens=3, temperature=0.0, logprobs=3),
    SamplingParams(max_tokens=2, temperature=0.8, top_k=20, top_p=0.9),
    SamplingParams(max_tokens=2, temperature=1.2, min_p=0.02, presence_penalty=0.5, logprobs=0),
]


RUNS: list[tuple[KVCacheDType, list[SamplingParams], float]] = [("auto", PARAMS, 1e-3), ("int8", PARAMS[:2], 1e-2)]
"""Cache, requests, and how far log-probabilities may be off: a number between two of int8 may become either."""


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


def answers(
    folder: str, quantization: str, cache: KVCacheDType, requests: list[SamplingParams]
) -> tuple[Answers, dict[str, str]]:
    config = EngineConfig(
        model=folder, quantization=quantization, num_threads=1, block_size=4, max_num_seqs=4, max_model_len=64,
        max_num_batched_tokens=16, kv_cache_memory=1 << 20, kv_cache_dtype=cache,
    )  # fmt: skip
    executor = UniprocExecutor(config, lambda *_: None)
    facts = executor.load()
    engine = Engine(config, executor, facts, executor.initialize_cache())
    found: Answers = {}
    for number, params in enumerate(requests):
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
    expected = [answers(folder, quantization, cache, requests)[0] for cache, requests, _ in RUNS]
    Machine.detect = classmethod(lambda *_, **options: Machine("cuda", "sm_90", "interpreted", 1, **options))
    worker.choose_capturing = lambda *_: Again()
    problems = []
    for (cache, requests, tolerance), others in zip(RUNS, expected, strict=True):
        found, kernels = answers(folder, quantization, cache, requests)
        of_torch = {"linear"} if quantization == "none" else {"quantize"}
        strange = {op for op, provider in kernels.items() if provider != "triton"} - of_torch
        problems += [f"not by Triton: {strange}"] if strange else []
        problems += [f"cache {cache}: {line}" for line in differences(found, others, tolerance)]
    print("\n".join(problems))
    raise SystemExit(bool(problems))


def differences(found: Answers, expected: Answers, tolerance: float) -> Iterator[str]:
    for name, tokens in expected.items():
        if [token for token, _ in found[name]] != [token for token, _ in tokens]:
            yield f"request {name}: {found[name]} in place of {tokens}"
        for (_, one), (_, other) in zip(found[name], tokens, strict=False):
            if (one is None) != (other is None):
                yield f"request {name}: log-probabilities for one only"
            elif one is not None and other is not None:
                mine, its = ([each.logprob, *each.top_logprobs] for each in (one, other))
                if not torch.allclose(torch.tensor(mine), torch.tensor(its), atol=tolerance):
                    yield f"request {name}: {mine} in place of {its}"


if __name__ == "__main__":
    main()
