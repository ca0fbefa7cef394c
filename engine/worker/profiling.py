"""The largest step a configuration allows, run once to see what memory activations and sampling take."""

from __future__ import annotations

import numpy as np

from engine.batch import SampleRequest, ScheduledBatch
from engine.config import EngineConfig
from engine.sampling_params import SamplingParams

PARAMS = SamplingParams(
    max_tokens=1, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.1, logit_bias={0: 1.0}, logprobs=1
)
"""Every path of the sampler."""


def full_step(config: EngineConfig, longest: int) -> ScheduledBatch:
    """As many sequences as a step may hold, sharing its token budget evenly, a token sampled from each.

    longest: greatest length of one sequence. The blocks used are 0, 1, 2, ….
    """
    sequences = min(config.max_num_seqs, config.max_num_batched_tokens)
    query_len = min(config.max_num_batched_tokens // sequences, longest)
    blocks = -(-query_len // config.block_size)
    ids = np.zeros(query_len, dtype=np.int32)
    return ScheduledBatch(
        step=0,
        sequence_ids=tuple(f"profile-{row}" for row in range(sequences)),
        input_ids=np.zeros(sequences * query_len, dtype=np.int32),
        query_lens=np.full(sequences, query_len, dtype=np.int32),
        context_lens=np.zeros(sequences, dtype=np.int32),
        block_tables=np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks),
        samples=tuple(SampleRequest(row, PARAMS, 0, 0, 0, ids, ids[:0]) for row in range(sequences)),
    )
