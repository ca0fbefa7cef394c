"""Top-k, top-p (nucleus, Holtzman et al. 2020) and min-p filters, each row with its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.registry import EXACT, Example, Op


class FilterLogits(Protocol):
    def __call__(self, logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FilterLogitsSpec:
    vocab_size: int


def filter_logits(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Logits [R, V] float32 with -inf where a filter rules the token out; one token at least is left in each row.

    In this order, as Hugging Face's logits warpers: top_k [R] int64 keeps the k greatest and what equals the last of
    them, 0 for all; top_p [R] float32 keeps the fewest likeliest of those whose probabilities reach p together, ties
    going to the lower token id, 1 for all; min_p [R] float32 keeps those at least min_p times as likely as the
    likeliest, 0 for all.
    """
    ordered, order = torch.sort(logits, dim=-1, descending=True, stable=True)
    last = torch.where(top_k > 0, top_k, logits.shape[-1]).clamp(max=logits.shape[-1]) - 1
    kept = ordered >= ordered.gather(-1, last[:, None])
    probabilities = torch.softmax(ordered.masked_fill(~kept, -torch.inf), dim=-1)
    before = torch.roll(probabilities.cumsum(-1), 1, dims=-1)
    before[:, 0] = -1.0  # The likeliest token always stays.
    kept &= (before < top_p[:, None]) | (top_p[:, None] >= 1.0)
    kept &= probabilities >= min_p[:, None] * probabilities[:, :1]
    return torch.full_like(logits, -torch.inf).scatter_(-1, order, ordered.masked_fill(~kept, -torch.inf))


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[FilterLogitsSpec]]:
    settings = [
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
        (5, 1.0, 0.0),
        (0, 0.5, 0.0),
        (0, 1.0, 0.1),
        (40, 0.9, 0.05),
        (9999, 0.0, 0),
    ]
    top_k = torch.tensor([k for k, _, _ in settings])
    top_p = torch.tensor([p for _, p, _ in settings])
    min_p = torch.tensor([float(p) for _, _, p in settings])
    for vocab_size in (11, 1000):
        logits = torch.randn(len(settings), vocab_size, generator=generator) * 3
        logits[:, ::7] = logits[:, :1]  # Ties.
        logits[:, 3] = -torch.inf
        yield Example(FilterLogitsSpec(vocab_size), (logits, top_k, top_p, min_p))


OP: Op[FilterLogits, FilterLogitsSpec] = Op(
    name="filter_logits", reference=filter_logits, tolerances={torch.float32: EXACT}, examples=_examples
)
