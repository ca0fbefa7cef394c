"""Batches that exercise prefill, decode and every path of the sampler once, without a request."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.batch import SampleRequest, ScheduledBatch
from engine.sampling_params import SamplingParams

TOKENS = 32
"""Enough for libraries to initialise themselves; more would only take time."""

GREEDY = SamplingParams(max_tokens=1, temperature=0.0, logprobs=1)
DRAWN = SamplingParams(max_tokens=1, top_k=2, top_p=0.9, min_p=0.01, repetition_penalty=1.1)


def batches(tokens: int, block_size: int) -> Iterator[ScheduledBatch]:
    """A prompt of ``tokens`` tokens, then one token more, in the first blocks of the cache."""
    for step, (query, context, params) in enumerate([(tokens, 0, GREEDY), (1, tokens, DRAWN)]):
        ids = np.zeros(query, dtype=np.int32)
        yield ScheduledBatch(
            step=step,
            sequence_ids=("warm-up",),
            input_ids=ids,
            query_lens=np.array([query], dtype=np.int32),
            context_lens=np.array([context], dtype=np.int32),
            block_tables=(list(range(-(-(context + query) // block_size))),),
            samples=(SampleRequest(0, params, seed=0, choice=0, position=0, prompt_ids=ids, output_ids=ids[:0]),),
        )
