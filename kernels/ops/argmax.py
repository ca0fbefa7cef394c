"""The likeliest token of each row, and whether the row means anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.registry import EXACT, Example, Op


class Argmax(Protocol):
    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class ArgmaxSpec:
    vocab_size: int


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(ids [R] int64, best [R] float32) of logits [R, V] float32: the lowest id of the greatest logit, and that logit.

    ``best`` is NaN where any logit of the row is; the id then means nothing.
    """
    best, ids = torch.max(logits, dim=-1)
    return ids, best


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[ArgmaxSpec]]:
    for rows, vocab_size in [(1, 1), (1, 11), (9, 1003), (4, 4096)]:
        logits = torch.randn(rows, vocab_size, generator=generator).mul(4).round() / 2  # Many ties.
        logits[:, ::3] = -torch.inf
        logits[0] = -torch.inf
        logits[0, -1] = 0.0
        yield Example(ArgmaxSpec(vocab_size), (logits,))


OP: Op[Argmax, ArgmaxSpec] = Op(
    name="argmax", reference=argmax, tolerances={torch.float32: EXACT}, examples=_examples, invariant=True
)
