"""Sampler: logits to tokens. Stateless; each row's token follows from that row alone.

The order is that of ``SamplingParams``: logit bias, penalties, minimum length, temperature, top-k, top-p, min-p, and a
draw whose noise is a function of (seed, choice, position, token id).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batch import SampleRequest
from engine.messages import TokenLogprobs
from engine.sampling_params import SamplingParams
from engine.worker.logits import adjust
from kernels.ops import filter_logits, gumbel_sample, token_logprobs
from kernels.registry import Kernels

TINY, HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


class InvalidLogitsError(ArithmeticError):
    """The model computed NaN or no finite logit at all: no token of that row would mean anything."""


class Sampler:
    def __init__(self, kernels: Kernels, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._filter = kernels.select(filter_logits.OP, filter_logits.FilterLogitsSpec(vocab_size))
        self._draw = kernels.select(gumbel_sample.OP, gumbel_sample.GumbelSampleSpec(vocab_size))
        self._logprobs = kernels.select(token_logprobs.OP, token_logprobs.TokenLogprobsSpec(vocab_size))

    def sample(self, logits: Tensor, requests: Sequence[SampleRequest]) -> tuple[list[int], list[TokenLogprobs | None]]:
        """A token for each request, and its log-probabilities where asked for.

        logits [R, V] float32, a row for each request; not changed.
        """
        _check(logits, requests)
        adjusted = adjust(logits, requests)
        token_ids: list[int] = adjusted.argmax(-1).tolist()
        drawn = [row for row, request in enumerate(requests) if not request.params.greedy]
        if drawn:
            chosen = adjusted if len(drawn) == len(requests) else adjusted[drawn]
            for row, token in zip(drawn, self._drawn(chosen, [requests[row] for row in drawn]), strict=True):
                token_ids[row] = token
        return token_ids, self._sampled_logprobs(logits, requests, token_ids)

    def logprobs(self, logits: Tensor, targets: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
        """Of the model's own distribution: for each row of logits [R, V] a target token and so many likeliest ones."""
        most = min(max(tops), self._vocab_size)
        target = torch.tensor(targets, dtype=torch.int64, device=logits.device)
        columns = [tensor.tolist() for tensor in self._logprobs(logits, target, most)]
        return [
            TokenLogprobs(logprob=logprob, rank=rank, top_ids=ids[:top], top_logprobs=values[:top])
            for logprob, rank, ids, values, top in zip(*columns, tops, strict=True)
        ]

    def _drawn(self, logits: Tensor, requests: Sequence[SampleRequest]) -> list[int]:
        """Tokens of rows with a temperature above 0."""
        params = [request.params for request in requests]
        # The best is brought to 0 first and the temperature kept within float32: however extreme it is, the best stays
        # finite and nothing becomes NaN.
        temperature = torch.tensor([each.temperature for each in params], dtype=torch.float64).clamp(TINY, HUGE)
        temperature = temperature.to(logits)
        scaled = (logits - logits.amax(-1, keepdim=True)) / temperature[:, None]
        filtered = [row for row, each in enumerate(params) if _filters(each)]
        if len(filtered) == len(params):
            scaled = self._filtered(scaled, params)
        elif filtered:
            scaled[filtered] = self._filtered(scaled[filtered], [params[row] for row in filtered])
        seeds = np.array([request.seed for request in requests], dtype=np.uint64).view(np.int64)
        places = torch.tensor([(request.choice, request.position) for request in requests], device=logits.device)
        tokens: list[int] = self._draw(
            scaled, torch.from_numpy(seeds).to(logits.device), places[:, 0], places[:, 1]
        ).tolist()
        return tokens

    def _filtered(self, logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
        device = logits.device
        top_k = torch.tensor([each.top_k for each in params], device=device)
        top_p = torch.tensor([each.top_p for each in params], device=device)
        min_p = torch.tensor([each.min_p for each in params], device=device)
        return self._filter(logits, top_k, top_p, min_p)

    def _sampled_logprobs(
        self, logits: Tensor, requests: Sequence[SampleRequest], token_ids: Sequence[int]
    ) -> list[TokenLogprobs | None]:
        found: list[TokenLogprobs | None] = [None] * len(requests)
        asked = [(row, request.params.logprobs) for row, request in enumerate(requests)]
        wanted = [(row, top) for row, top in asked if top is not None]
        if wanted:
            rows, tops = [row for row, _ in wanted], [top for _, top in wanted]
            for row, entry in zip(rows, self.logprobs(logits[rows], [token_ids[r] for r in rows], tops), strict=True):
                found[row] = entry
        return found


def _filters(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _check(logits: Tensor, requests: Sequence[SampleRequest]) -> None:
    best = logits.amax(-1)
    if not bool(torch.isfinite(best).all()):
        bad = [requests[row].row for row in torch.nonzero(~torch.isfinite(best)).flatten().tolist()]
        raise InvalidLogitsError(f"the logits of rows {bad} of the batch are NaN or infinite")
