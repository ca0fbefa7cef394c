"""From planned rows to the ScheduledBatch that the ranks see. Loops over sequences, never over tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.batch import PromptLogprobsRequest, SampleRequest, ScheduledBatch
from engine.sequence import Sequence


def build_batch(step: int, rows: Mapping[Sequence, int]) -> ScheduledBatch:
    """``rows``: sequences, whose block tables already cover the step, and how many tokens of each it computes."""
    samples, scores, chunks = [], [], []
    for row, (sequence, tokens) in enumerate(rows.items()):
        chunks.append(sequence.token_ids(sequence.num_computed, sequence.num_computed + tokens))
        if sequence.samples_after(tokens):
            samples.append(_sample_request(row, sequence))
        targets = sequence.prompt_targets(tokens)
        if len(targets):
            scores.append(PromptLogprobsRequest(row=row, top=sequence.params.prompt_logprobs or 0, targets=targets))
    return ScheduledBatch(
        step=step,
        sequence_ids=tuple(sequence.id for sequence in rows),
        input_ids=np.concatenate(chunks),
        query_lens=np.fromiter(rows.values(), np.int32, len(rows)),
        context_lens=np.fromiter((sequence.num_computed for sequence in rows), np.int32, len(rows)),
        block_tables=tuple(sequence.block_table.copy() for sequence in rows),
        samples=tuple(samples),
        prompt_logprobs=tuple(scores),
    )


def _sample_request(row: int, sequence: Sequence) -> SampleRequest:
    penalized = sequence.params.has_penalties
    return SampleRequest(
        row=row,
        params=sequence.params,
        seed=sequence.seed,
        choice=sequence.choice,
        position=sequence.num_output,
        prompt_ids=sequence.prompt_ids if penalized else None,
        output_ids=sequence.output_ids if penalized else None,
    )
