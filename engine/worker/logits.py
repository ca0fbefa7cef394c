"""What changes logits before they are sampled: logit bias, penalties, minimum length, allowed tokens, bad words, and
the end of reasoning that has gone on for long enough.

A grammar comes after them, see ``grammar_mask``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.batch import SampleRequest


def adjust(logits: Tensor, requests: Sequence[SampleRequest]) -> Tensor:
    """Logits [R, V] with what the module's first line names applied to each row, in that order.

    The given tensor is returned where nothing applies, and never changed.
    """
    if not any(changes(request) for request in requests):
        return logits
    biased = [row for row, request in enumerate(requests) if request.params.logit_bias]
    penalised = [row for row, request in enumerate(requests) if request.params.has_penalties]
    held = [row for row, request in enumerate(requests) if _may_not_stop(request)]
    logits = logits.clone()
    if biased:
        _add_bias(logits, biased, requests)
    if penalised:
        logits[penalised] = _penalise(logits[penalised], [requests[row] for row in penalised])
    if held:
        _forbid_stops(logits, held, requests)
    for row, request in enumerate(requests):
        if request.params.allowed_token_ids:
            _keep_allowed(logits[row], request.params.allowed_token_ids)
        if request.params.bad_words:
            _forbid_words(logits[row], request)
        if _has_to_end_reasoning(request):
            _keep_end_of_reasoning(logits[row], request)
    return logits


def changes(request: SampleRequest) -> bool:
    """Whether anything here applies to its row."""
    params = request.params
    listed = params.logit_bias or params.allowed_token_ids or params.bad_words
    return bool(listed) or params.has_penalties or _may_not_stop(request) or _has_to_end_reasoning(request)


def _has_to_end_reasoning(request: SampleRequest) -> bool:
    limit, output = request.params.reasoning_limit, request.output_ids
    return limit is not None and output is not None and limit.reached(output)


def _keep_end_of_reasoning(row: Tensor, request: SampleRequest) -> None:
    assert request.params.reasoning_limit is not None
    row.fill_(-torch.inf)
    row[request.params.reasoning_limit.end] = 0.0


def _may_not_stop(request: SampleRequest) -> bool:
    return request.position < request.params.min_tokens and bool(request.params.stop_token_ids)


def _add_bias(logits: Tensor, rows: Sequence[int], requests: Sequence[SampleRequest]) -> None:
    entries = [(row, token, bias) for row in rows for token, bias in requests[row].params.logit_bias.items()]
    row, token, bias = (list(column) for column in zip(*entries, strict=True))
    at = (torch.tensor(row, device=logits.device), torch.tensor(token, device=logits.device))
    logits[at] += torch.tensor(bias, dtype=logits.dtype, device=logits.device)


def _forbid_stops(logits: Tensor, rows: Sequence[int], requests: Sequence[SampleRequest]) -> None:
    entries = [(row, token) for row in rows for token in requests[row].params.stop_token_ids]
    row, token = (torch.tensor(column, device=logits.device) for column in zip(*entries, strict=True))
    logits[row, token] = -torch.inf


def _keep_allowed(row: Tensor, allowed: Sequence[int]) -> None:
    ids = torch.tensor(allowed, device=row.device)
    kept = row[ids]
    row.fill_(-torch.inf)
    row[ids] = kept


def _forbid_words(row: Tensor, request: SampleRequest) -> None:
    assert request.output_ids is not None
    longest = max(map(len, request.params.bad_words)) - 1
    recent = tuple(request.output_ids[len(request.output_ids) - min(longest, len(request.output_ids)) :].tolist())
    last = [word[-1] for word in request.params.bad_words if recent[len(recent) - len(word) + 1 :] == word[:-1]]
    row[torch.tensor(last, dtype=torch.int64, device=row.device)] = -torch.inf


def _penalise(logits: Tensor, requests: Sequence[SampleRequest]) -> Tensor:
    """Repetition penalty over prompt and output (Keskar et al. 2019, as transformers' logits processor), then presence
    and frequency penalties over the output alone, as OpenAI defines them. The result is finite, however extreme they
    are.
    """
    params = [request.params for request in requests]
    limits = torch.finfo(logits.dtype)
    repetition, presence, frequency = (
        torch.tensor(values, dtype=logits.dtype, device=logits.device)[:, None]
        for values in (
            [min(max(each.repetition_penalty, limits.tiny), limits.max) for each in params],
            [each.presence_penalty for each in params],
            [each.frequency_penalty for each in params],
        )
    )
    output = _counts(logits, [request.output_ids for request in requests])
    seen = (output > 0) | (_counts(logits, [request.prompt_ids for request in requests]) > 0)
    logits = torch.where(seen, torch.where(logits > 0, logits / repetition, logits * repetition), logits)
    return (logits - presence * (output > 0) - frequency * output).clamp(limits.min, limits.max)


def _counts(logits: Tensor, ids: Sequence[npt.NDArray[np.int32] | None]) -> Tensor:
    """How often each token occurs in each row's ids: float32, shaped like logits."""
    present = [np.zeros(0, np.int32) if row is None else row for row in ids]
    rows = torch.from_numpy(np.repeat(np.arange(len(present)), [len(row) for row in present]))
    tokens = torch.from_numpy(np.concatenate(present).astype(np.int64))
    counts = torch.zeros_like(logits)
    ones = torch.ones(len(tokens), dtype=logits.dtype, device=logits.device)
    return counts.index_put_((rows.to(logits.device), tokens.to(logits.device)), ones, accumulate=True)
