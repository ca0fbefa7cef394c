"""ScheduledBatch: the frozen value that one step sends to every rank, and StepResult, what comes back.

Packed, variable length, no padding: the tokens of all sequences lie one after another. Symbols in the shapes:
T tokens in the step, S sequences in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from engine.arrays import IntArray
from engine.grammar import Grammar
from engine.messages import TokenLogprobs
from engine.sampling_params import SamplingParams


class SampleRequest(msgspec.Struct, frozen=True, gc=False):
    """Sample one token after the last token of a sequence in the batch."""

    row: int
    """Index of the sequence in the batch."""
    params: SamplingParams
    seed: int
    choice: int
    position: int
    """Output tokens so far: with (seed, choice, token id) the counter of the sampling noise."""
    prompt_ids: IntArray | None
    """The prompt, only where a penalty needs it."""
    output_ids: IntArray | None
    """The output so far, only where a penalty, ``bad_words``, ``reasoning_limit`` or ``grammar`` needs it."""
    sequence: int = 0
    """Number of the sequence among all of the engine."""
    constrained: bool = False
    """Whether it has a grammar."""
    grammar: Grammar | None = None
    """That grammar, unless the step before has sampled for this sequence, and who samples knows how far it is."""


class PromptLogprobsRequest(msgspec.Struct, frozen=True, gc=False):
    """Report log-probabilities of prompt tokens that this step's positions predict."""

    row: int
    top: int
    targets: IntArray
    """[≤ query_len] the token after each position of the chunk, as far as the prompt reaches."""


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    step: int
    sequence_ids: tuple[str, ...]
    input_ids: IntArray
    """[T]"""
    query_lens: IntArray
    """[S] tokens of each sequence in this step, ≥ 1; their sum is T."""
    context_lens: IntArray
    """[S] tokens of each sequence already in the KV cache."""
    block_tables: IntArray
    """[S, B] block ids of each sequence, in order; what lies past those that cover context and query means nothing."""
    samples: tuple[SampleRequest, ...]
    """In rising order of row; a sequence whose chunk does not reach its last token has none."""
    prompt_logprobs: tuple[PromptLogprobsRequest, ...] = ()
    carried: IntArray | None = None
    """Where the step follows one whose tokens are not known yet: [≤ S] for each of the leading sequences, which have a
    token each, its row in that step. Its token there is its input here, and ``input_ids`` has nothing in its place."""


NO_TOKEN = -1
"""In place of a token whose logits are NaN or infinite, or of which ``StepResult.refusals`` tells."""
LATER = -2
"""In place of a token that a later step samples."""


@dataclass(frozen=True, slots=True)
class StepResult:
    token_ids: list[int]
    """One for each of the batch's samples. ``NO_TOKEN`` where there can be none; ``LATER`` where its grammar is still
    being compiled, so that its last position is to be computed once more."""
    logprobs: list[TokenLogprobs | None]
    """One for each of the batch's samples; None where not asked for."""
    prompt_logprobs: list[list[TokenLogprobs]]
    """One for each of the batch's prompt_logprobs requests, an entry for each of its targets."""
    refusals: dict[int, str] = field(default_factory=dict)
    """Place among the samples → why that sequence cannot go on by what its request asks for."""
