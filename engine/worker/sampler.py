"""Sampler: logits to tokens. Stateless; each row's token follows from that row alone.

The order is that of ``SamplingParams``: logit bias, penalties, minimum length, temperature, top-k, top-p, min-p, and a
draw whose noise is a function of (seed, choice, position, token id).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batch import SampleRequest
from engine.messages import TokenLogprobs
from engine.worker.logits import adjust
from kernels.ops import argmax, sample_tokens, token_logprobs
from kernels.registry import Kernels


class InvalidLogitsError(ArithmeticError):
    """The model computed NaN or no finite logit at all: no token of that row would mean anything."""


class Sampler:
    def __init__(self, kernels: Kernels, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._argmax = kernels.select(argmax.OP, argmax.ArgmaxSpec(vocab_size))
        self._draw = kernels.select(sample_tokens.OP, sample_tokens.SampleTokensSpec(vocab_size))
        self._logprobs = kernels.select(token_logprobs.OP, token_logprobs.TokenLogprobsSpec(vocab_size))

    def sample(self, logits: Tensor, requests: Sequence[SampleRequest]) -> tuple[list[int], list[TokenLogprobs | None]]:
        """A token for each request, and its log-probabilities where asked for.

        logits [R, V] float32, a row for each request; not changed.
        """
        likeliest, best = self._argmax(logits)
        if not all(map(math.isfinite, best.tolist())):
            _refuse(best, requests)
        adjusted = adjust(logits, requests)
        if not all(request.params.greedy for request in requests):
            token_ids = self._draw(adjusted, *_columns(requests, logits.device)).tolist()
        else:
            token_ids = (likeliest if adjusted is logits else self._argmax(adjusted)[0]).tolist()
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

    def _sampled_logprobs(
        self, logits: Tensor, requests: Sequence[SampleRequest], token_ids: Sequence[int]
    ) -> list[TokenLogprobs | None]:
        found: list[TokenLogprobs | None] = [None] * len(requests)
        asked = [(row, request.params.logprobs) for row, request in enumerate(requests)]
        wanted = [(row, top) for row, top in asked if top is not None]
        if wanted:
            rows, tops = [row for row, _ in wanted], [top for _, top in wanted]
            chosen = logits if len(rows) == len(logits) else logits[rows]
            for row, entry in zip(rows, self.logprobs(chosen, [token_ids[r] for r in rows], tops), strict=True):
                found[row] = entry
        return found


def _columns(requests: Sequence[SampleRequest], device: torch.device) -> tuple[Tensor, ...]:
    """What ``sample_tokens`` draws each row with, in its order. A temperature of 0 is greedy there, too."""
    params = [request.params for request in requests]
    floats = np.array([[each.temperature, each.top_p, each.min_p] for each in params]).T
    seeds = np.array([request.seed for request in requests], dtype=np.uint64).view(np.int64)
    others = np.array(
        [(request.params.top_k, request.choice, request.position) for request in requests], dtype=np.int64
    ).T
    temperature, top_p, min_p = torch.from_numpy(np.ascontiguousarray(floats)).to(device)
    top_k, choices, positions = torch.from_numpy(np.ascontiguousarray(others)).to(device)
    return temperature, top_k, top_p, min_p, torch.from_numpy(seeds).to(device), choices, positions


def _refuse(best: Tensor, requests: Sequence[SampleRequest]) -> None:
    bad = [request.row for request, value in zip(requests, best.tolist(), strict=True) if not math.isfinite(value)]
    raise InvalidLogitsError(f"the logits of rows {bad} of the batch are NaN or infinite")
