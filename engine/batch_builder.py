"""From planned rows to the ScheduledBatch that the ranks see. Loops over sequences, never over tokens."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from engine.arrays import IntArray
from engine.batch import PromptLogprobsRequest, SampleRequest, ScheduledBatch
from engine.schedule import Schedule
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of one token each that follow on the step under way: all but the tokens, which that step samples."""

    sequence_ids: list[str]
    context_lens: IntArray
    table_rows: IntArray
    samples: list[SampleRequest]
    carried: IntArray
    """Their rows in the step under way."""

    def only(self, places: list[int]) -> _Rows:
        """Those at ``places``, in rising order."""
        if len(places) == len(self.samples):
            return self
        samples = [self.samples[place] for place in places]
        return _Rows(
            [self.sequence_ids[place] for place in places],
            self.context_lens[places],
            self.table_rows[places],
            [msgspec.structs.replace(sample, row=row) for row, sample in enumerate(samples)],
            self.carried[places],
        )


_NONE = _Rows([], np.empty(0, np.int32), np.empty(0, np.int32), [], np.empty(0, np.int32))


class BatchBuilder:
    def __init__(self, block_tables: IntArray, block_size: int) -> None:
        """``block_tables``: the Scheduler's, which cover a step as soon as it is planned."""
        self._block_tables = block_tables
        self._block_size = block_size
        self._ahead = _NONE

    def lay_out_ahead(self, sequences: dict[Sequence, int]) -> None:
        """Lay out what ``Scheduler.prepare`` has planned, before the step under way appends a token to each."""
        self._ahead = _Rows(
            [sequence.id for sequence in sequences],
            _array([sequence.num_tokens for sequence in sequences]),
            _array([sequence.table_row for sequence in sequences]),
            [_sample_request(row, sequence, 1) for row, sequence in enumerate(sequences)],
            _array(list(sequences.values())),
        )

    def build(self, step: int, plan: Schedule, *, follows: bool = False) -> ScheduledBatch:
        """The batch of a plan; of the rows laid out ahead, those that are still in it.

        ``follows``: the step before, whose tokens these rows go on with, has not ended.
        """
        ahead, self._ahead = self._ahead.only(list(plan.ahead.values())), _NONE
        rest = list(plan.rest())
        chunks = [_array([0 if follows else sequence.newest for sequence in plan.ahead])]
        samples, scores = list(ahead.samples), []
        for row, (sequence, tokens) in enumerate(rest, len(samples)):
            chunks.append(sequence.token_ids(sequence.num_computed, sequence.num_computed + tokens))
            if sequence not in plan.silent:
                samples.append(_sample_request(row, sequence, 0))
            if sequence in plan.scored:
                targets = sequence.prompt_targets(tokens)
                scores.append(PromptLogprobsRequest(row=row, top=sequence.params.prompt_logprobs or 0, targets=targets))
        query_lens = _array(list(plan.rows.values()))
        context_lens = _with(ahead.context_lens, [sequence.num_computed for sequence, _ in rest])
        table_rows = _with(ahead.table_rows, [sequence.table_row for sequence, _ in rest])
        longest = -(-int((context_lens + query_lens).max()) // self._block_size)
        return ScheduledBatch(
            step=step,
            sequence_ids=(*ahead.sequence_ids, *[sequence.id for sequence, _ in rest]),
            input_ids=np.concatenate(chunks),
            query_lens=query_lens,
            context_lens=context_lens,
            block_tables=self._block_tables[:, :longest].take(table_rows, axis=0),
            samples=tuple(samples),
            prompt_logprobs=tuple(scores),
            carried=ahead.carried if follows and plan.ahead else None,
        )


def _array(values: list[int]) -> IntArray:
    return np.array(values, np.int32)


def _with(known: IntArray, more: list[int]) -> IntArray:
    return np.concatenate((known, _array(more))) if more else known


def _sample_request(row: int, sequence: Sequence, ahead: int) -> SampleRequest:
    """``ahead``: how many more output tokens there will be by then."""
    params, constrained = sequence.params, sequence.grammar is not None
    grammar = None if ahead else sequence.grammar
    limited = bool(params.bad_words) or params.reasoning_limit is not None
    needs_output = params.has_penalties or limited or grammar is not None
    stop = sequence.num_tokens + ahead
    return SampleRequest(
        row,
        params,
        sequence.seed,
        sequence.choice,
        sequence.num_output + ahead,
        sequence.prompt_ids if params.has_penalties else None,
        sequence.token_ids(sequence.num_prompt, stop) if needs_output else None,
        sequence.arrival,
        constrained,
        grammar,
    )
