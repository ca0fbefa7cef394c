"""Sampler: logits to tokens. Stateless; each row's token follows from that row alone.

The order is that of ``SamplingParams``: logit bias, penalties, minimum length, allowed tokens, bad words, grammar,
temperature, top-k, top-p, min-p, and a draw whose noise is a function of (seed, choice, position, token id).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


class Sampled(NamedTuple):
    """As in ``StepResult``."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    refusals: dict[int, str]


class Sampler:
    """``prepare``, ``draw`` and ``finish`` in turns: the second may be part of a captured pass.

    What is drawn there counts for rows whose logits nothing changes; ``finish`` draws the others.
    """

    def __init__(
        self, kernels: Kernels, vocab_size: int, max_rows: int, device: torch.device, masks: GrammarMasks
    ) -> None:
        self._vocab_size = vocab_size
        self._masks = masks
        self._bits = Buffer((max_rows, words_of(vocab_size)), torch.int32, device)
        self._apply_bitmask = kernels.select(apply_bitmask.OP, apply_bitmask.ApplyBitmaskSpec(vocab_size))
        self._columns = Columns(max_rows, device)
        self._argmax = kernels.select(argmax.OP, argmax.ArgmaxSpec(vocab_size))
        self._draw = kernels.select(sample_tokens.OP, sample_tokens.SampleTokensSpec(vocab_size))
        self._logprobs = kernels.select(token_logprobs.OP, token_logprobs.TokenLogprobsSpec(vocab_size))

    def prepare(self, requests: Sequence[SampleRequest], rows: int) -> None:
        """Write what the requests' rows are drawn with to where ``draw`` reads it; the other rows are greedy."""
        self._columns.write([request for request in requests if not _is_drawn_late(request)], rows)
        self._columns.upload(rows)
        self._masks.expect(requests)

    def draw(self, logits: Tensor, *, greedy: bool = False) -> Drawn:
        """A token of each row of logits [R, V] float32; with ``greedy`` all were prepared to be the likeliest."""
        likeliest, best = self._argmax(logits)
        tokens = likeliest if greedy else self._draw(logits, *self._columns.parts(len(logits)))
        return Drawn(logits, best, tokens)

    def finish(self, drawn: Drawn, requests: Sequence[SampleRequest]) -> Sampled:
        """A token for each request, and its log-probabilities where asked for.

        A request whose logits are NaN or infinite gets ``NO_TOKEN``. Raises InvalidLogitsError where there are several
        requests and all are so: then it is the engine that is ill, and another one may be well.
        """
        if not requests:
            return Sampled([], [], {})
        drawn = drawn.of([request.row for request in requests])
        if not all(map(math.isfinite, drawn.best.tolist())):
            return self._finish_some(drawn, requests)
        token_ids: list[int] = drawn.tokens.tolist()
        refusals: dict[int, str] = {}
        places = [place for place, request in enumerate(requests) if _is_drawn_late(request)]
        if places:
            logits = drawn.logits if len(places) == len(requests) else drawn.logits[places]
            chosen = [requests[place] for place in places]
            late, refused = self._draw_late(logits, chosen, alone=len(places) == len(requests))
            for at, place in enumerate(places):
                token_ids[place] = late[at]
            refusals = {places[at]: reason for at, reason in refused.items()}
        return Sampled(token_ids, self._sampled_logprobs(drawn.logits, requests, token_ids), refusals)

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

    def _finish_some(self, drawn: Drawn, requests: Sequence[SampleRequest]) -> Sampled:
        """``finish`` where some rows of ``drawn``, one for each request, are not finite."""
        well = [row for row, value in enumerate(drawn.best.tolist()) if math.isfinite(value)]
        if not well and len(requests) > 1:
            raise InvalidLogitsError(f"the logits of all {len(requests)} rows of the batch are NaN or infinite")
        token_ids = [NO_TOKEN] * len(requests)
        logprobs: list[TokenLogprobs | None] = [None] * len(requests)
        others = [msgspec.structs.replace(requests[row], row=place) for place, row in enumerate(well)]
        found = self.finish(Drawn(*(column[well] for column in drawn)), others)
        for row, token_id, entry in zip(well, found.token_ids, found.logprobs, strict=True):
            token_ids[row], logprobs[row] = token_id, entry
        return Sampled(token_ids, logprobs, {well[place]: reason for place, reason in found.refusals.items()})

    def logprobs(self, logits: Tensor, targets: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
        """Of the model's own distribution: for each row of logits [R, V] a target token and so many likeliest ones."""
        most = min(max(tops), self._vocab_size)
        target = torch.tensor(targets, dtype=torch.int64, device=logits.device)
        columns = [tensor.tolist() for tensor in self._logprobs(logits, target, most)]
        return [
            TokenLogprobs(logprob=logprob, rank=rank, top_ids=ids[:top], top_logprobs=values[:top])
            for logprob, rank, ids, values, top in zip(*columns, tops, strict=True)
        ]

    def _sampled_logprobs(
        self, logits: Tensor, requests: Sequence[SampleRequest], token_ids: Sequence[int]
    ) -> list[TokenLogprobs | None]:
        found: list[TokenLogprobs | None] = [None] * len(requests)
        asked = [(row, request.params.logprobs) for row, request in enumerate(requests) if token_ids[row] >= 0]
        wanted = [(row, top) for row, top in asked if top is not None]
        if wanted:
            rows, tops = [row for row, _ in wanted], [top for _, top in wanted]
            chosen = logits if len(rows) == len(logits) else logits[rows]
            for row, entry in zip(rows, self.logprobs(chosen, [token_ids[r] for r in rows], tops), strict=True):
                found[row] = entry
        return found


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
