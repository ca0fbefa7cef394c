"""Sampler: logits to tokens. Stateless; each row's token follows from that row alone.

The order is that of ``SamplingParams``: logit bias, penalties, minimum length, allowed tokens, bad words, grammar,
temperature, top-k, top-p, min-p, and a draw whose noise is a function of (seed, choice, position, token id).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from engine.batch import LATER, NO_TOKEN, SampleRequest
from engine.grammar_compiler import words_of
from engine.messages import TokenLogprobs
from engine.sampling_params import NOTHING_LEFT
from engine.worker.grammar_mask import Constraints, GrammarMasks
from engine.worker.input_buffers import Buffer
from engine.worker.logits import adjust, changes
from engine.worker.transfers import Transfers
from kernels.ops import apply_bitmask, argmax, sample_tokens, token_logprobs
from kernels.registry import Kernels


class InvalidLogitsError(ArithmeticError):
    """The model computed NaN or no finite logit at all in several rows, and in no other: it is none of theirs."""


class Drawn(NamedTuple):
    """What is sampled of each of R rows before anything changes its logits."""

    logits: Tensor
    """[R, V] float32"""
    best: Tensor
    """[R] float32: the greatest logit; NaN where any is."""
    tokens: Tensor
    """[R] int64"""

    def of(self, rows: list[int]) -> Drawn:
        if rows == list(range(len(rows))):  # Mostly: those that are not sampled are prompts, which come last.
            return Drawn(*(column[: len(rows)] for column in self))
        return Drawn(*(column[rows] for column in self))


class Scores(NamedTuple):
    """Log-probabilities of given tokens."""

    columns: Sequence[Tensor]
    """As ``token_logprobs`` gives them."""
    tops: Sequence[int]
    """How many of the likeliest tokens each row reports."""

    def brought(self, transfers: Transfers) -> Scores:
        """The same on its way to the host."""
        return Scores([transfers.bring(column) for column in self.columns], self.tops)

    def entries(self) -> list[TokenLogprobs]:
        columns = (column.tolist() for column in self.columns)
        return [
            TokenLogprobs(logprob=logprob, rank=rank, top_ids=ids[:top], top_logprobs=values[:top])
            for logprob, rank, ids, values, top in zip(*columns, self.tops, strict=True)
        ]


class Launched(NamedTuple):
    """What is on its way to the host, of R requests."""

    requests: Sequence[SampleRequest]
    drawn: Drawn
    """Their rows, on the device. Their logits are overwritten by the next step."""
    best: Tensor
    """As in ``Drawn``, for the host, as what follows."""
    tokens: Tensor
    scored: Sequence[int]
    """Places of requests that want log-probabilities of what is drawn."""
    scores: Scores | None


class Sampled(NamedTuple):
    """As in ``StepResult``."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    refusals: dict[int, str]


class Sampler:
    """``prepare``, ``draw``, ``launch`` and ``finish`` in turns: the second may be part of a captured pass.

    What is drawn there counts for rows whose logits nothing changes. ``launch`` has it brought to the host, and
    ``finish`` waits for that and draws the others. Where there are none, another step may be launched in between.
    """

    def __init__(
        self,
        kernels: Kernels,
        vocab_size: int,
        max_rows: int,
        device: torch.device,
        masks: GrammarMasks,
        transfers: Transfers,
    ) -> None:
        self._vocab_size = vocab_size
        self._transfers = transfers
        self._masks = masks
        self._bits = Buffer((max_rows, words_of(vocab_size)), torch.int32, device)
        self._apply_bitmask = kernels.select(apply_bitmask.OP, apply_bitmask.ApplyBitmaskSpec(vocab_size))
        self._columns = Columns(max_rows, device)
        self._argmax = kernels.select(argmax.OP, argmax.ArgmaxSpec(vocab_size))
        self._draw = kernels.select(sample_tokens.OP, sample_tokens.SampleTokensSpec(vocab_size))
        self._logprobs = kernels.select(token_logprobs.OP, token_logprobs.TokenLogprobsSpec(vocab_size))

    def prepare(self, requests: Sequence[SampleRequest], rows: int) -> bool:
        """Write what the requests' rows are drawn with to where ``draw`` reads it; the other rows are greedy.

        Gives whether ``draw`` draws all their tokens, and can draw those that follow before these are known.
        """
        at_once = [request for request in requests if not _is_drawn_late(request)]
        self._columns.write(at_once, rows)
        self._columns.upload(rows)
        self._masks.expect(requests)
        return len(at_once) == len(requests) and all(request.output_ids is None for request in requests)

    def draw(self, logits: Tensor, *, greedy: bool = False) -> Drawn:
        """A token of each row of logits [R, V] float32; with ``greedy`` all were prepared to be the likeliest."""
        likeliest, best = self._argmax(logits)
        tokens = likeliest if greedy else self._draw(logits, *self._columns.parts(len(logits)))
        return Drawn(logits, best, tokens)

    def launch(self, drawn: Drawn, requests: Sequence[SampleRequest]) -> Launched:
        """Begin to bring what was drawn for the requests to the host."""
        drawn = drawn.of([request.row for request in requests])
        best, tokens = self._transfers.bring(drawn.best), self._transfers.bring(drawn.tokens)
        scored = [
            place
            for place, request in enumerate(requests)
            if request.params.logprobs is not None and not _is_drawn_late(request)
        ]
        scores = self._scores(drawn.logits, drawn.tokens, scored, requests) if scored else None
        return Launched(requests, drawn, best, tokens, scored, scores and scores.brought(self._transfers))

    def finish(self, launched: Launched, void: Collection[int] = ()) -> Sampled:
        """A token for each request, and its log-probabilities where asked for; what was launched has arrived.

        A request whose logits are NaN or infinite gets ``NO_TOKEN``. Raises InvalidLogitsError where there are several
        requests and all are so: then it is the engine that is ill, and another one may be well. Places that are
        ``void``, of sequences that had no token in the step before, get ``NO_TOKEN`` as well and are not counted.
        """
        requests = launched.requests
        best: list[float] = launched.best.tolist()
        token_ids: list[int] = launched.tokens.tolist()
        ill = set(void)
        if not all(map(math.isfinite, best)):
            ill |= {place for place, value in enumerate(best) if not math.isfinite(value)}
            if len(ill) == len(requests) > len(void) + 1:
                raise InvalidLogitsError(f"the logits of all {len(requests)} rows of the batch are NaN or infinite")
        for place in ill:
            token_ids[place] = NO_TOKEN
        late = [place for place, request in enumerate(requests) if _is_drawn_late(request) and place not in ill]
        refusals: dict[int, str] = {}
        if late:
            alone = len(late) == len(requests) - len(ill)
            refusals = self._finish_late(launched, late, token_ids, alone=alone)
        logprobs: list[TokenLogprobs | None] = [None] * len(requests)
        if launched.scores is not None:
            for place, entry in zip(launched.scored, launched.scores.entries(), strict=True):
                logprobs[place] = entry if token_ids[place] >= 0 else None
        scored = [place for place in late if token_ids[place] >= 0 and requests[place].params.logprobs is not None]
        if scored:
            drawn = launched.drawn
            chosen = torch.tensor(token_ids, dtype=torch.int64, device=drawn.logits.device)
            scores = self._scores(drawn.logits, chosen, scored, requests)
            for place, entry in zip(scored, scores.entries(), strict=True):
                logprobs[place] = entry
        return Sampled(token_ids, logprobs, refusals)

    def _finish_late(self, launched: Launched, late: list[int], token_ids: list[int], *, alone: bool) -> dict[int, str]:
        """Put the tokens of requests whose logits are changed in their places; gives why some can have none."""
        logits, requests = launched.drawn.logits, launched.requests
        chosen = logits if len(late) == len(requests) else logits[late]
        found, refused = self._draw_late(chosen, [requests[place] for place in late], alone=alone)
        for place, token_id in zip(late, found, strict=True):
            token_ids[place] = token_id
        return {late[at]: reason for at, reason in refused.items()}

    def _draw_late(
        self, logits: Tensor, requests: Sequence[SampleRequest], *, alone: bool
    ) -> tuple[list[int], dict[int, str]]:
        """Tokens of requests whose logits [R, V] are changed, and why some can have none."""
        constraints = self._masks.collect(requests, alone=alone) if any(r.constrained for r in requests) else None
        changed = adjust(logits, requests)
        if constraints is not None:
            self._bits.array[: len(requests)] = constraints.bits
            self._bits.upload(len(requests))
            changed = self._apply_bitmask(changed, self._bits.part(len(requests)))
        tokens, best = self._argmax(changed)
        if not all(request.params.greedy for request in requests):
            self._columns.write([msgspec.structs.replace(r, row=row) for row, r in enumerate(requests)], len(requests))
            self._columns.upload(len(requests))
            tokens = self._draw(changed, *self._columns.parts(len(requests)))
        constraints = constraints or Constraints(self._bits.array[:0])
        refusals = {place: NOTHING_LEFT for place, value in enumerate(best.tolist()) if value == -math.inf}
        refusals |= constraints.refusals
        token_ids: list[int] = tokens.tolist()
        for place in constraints.late:
            token_ids[place] = LATER
        for place in refusals:
            token_ids[place] = NO_TOKEN
        self._masks.advance(requests, token_ids)
        return token_ids, refusals

    def score(self, logits: Tensor, targets: Tensor, tops: Sequence[int]) -> Scores:
        """Of the model's own distribution: for each row of logits [R, V] a target [R] int64 and so many likeliest."""
        return Scores(self._logprobs(logits, targets, min(max(tops), self._vocab_size)), tops)

    def _scores(self, logits: Tensor, tokens: Tensor, places: list[int], requests: Sequence[SampleRequest]) -> Scores:
        """Of the tokens at these places, whose requests want log-probabilities."""
        tops = [requests[place].params.logprobs or 0 for place in places]
        if len(places) < len(logits):
            logits, tokens = logits[places], tokens[places]
        # What is drawn of a row with NaN means nothing, and has to be a place in the row all the same.
        return self.score(logits, tokens.clamp(0, self._vocab_size - 1), tops)


def _is_drawn_late(request: SampleRequest) -> bool:
    return request.constrained or changes(request)


class Columns:
    """What ``sample_tokens`` draws each row with, in persistent memory."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        def column(dtype: torch.dtype) -> Buffer:
            return Buffer((max_rows,), dtype, device)

        self._temperature, self._top_p, self._min_p = (column(torch.float64) for _ in range(3))
        self._top_k, self._seeds, self._choices, self._positions = (column(torch.int64) for _ in range(4))
        filters = (self._temperature, self._top_k, self._top_p, self._min_p)
        self._columns = (*filters, self._seeds, self._choices, self._positions)

    def write(self, requests: Sequence[SampleRequest], rows: int) -> None:
        """Rows of greedy requests, or of none, get a temperature of 0, beside which the other columns do not matter."""
        self._temperature.array[:rows] = 0.0
        drawn = [request for request in requests if not request.params.greedy]
        if not drawn:
            return
        at = [request.row for request in drawn]
        params = [request.params for request in drawn]
        self._temperature.array[at] = [each.temperature for each in params]
        self._top_p.array[at] = [each.top_p for each in params]
        self._min_p.array[at] = [each.min_p for each in params]
        self._top_k.array[at] = [each.top_k for each in params]
        self._seeds.array.view(np.uint64)[at] = np.array([request.seed for request in drawn], dtype=np.uint64)
        self._choices.array[at] = [request.choice for request in drawn]
        self._positions.array[at] = [request.position for request in drawn]

    def upload(self, rows: int) -> None:
        """Begin to copy what is written of the leading rows."""
        for column in self._columns:
            column.upload(rows)

    def parts(self, rows: int) -> tuple[Tensor, ...]:
        """Of the leading rows, in the order in which ``sample_tokens`` takes them."""
        return tuple(column.part(rows) for column in self._columns)
