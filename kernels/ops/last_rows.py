"""The last row of each sequence: the one that its next token is sampled from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.registry import EXACT, Example, Op


class LastRows(Protocol):
    def __call__(self, x: Tensor, query_start_loc: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LastRowsSpec:
    dtype: torch.dtype


def last_rows(x: Tensor, query_start_loc: Tensor) -> Tensor:
    """x [T, N] and where each sequence's rows begin, [S + 1] int32, the end included → [S, N]. None is empty."""
    return x[query_start_loc[1:].long() - 1]


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[LastRowsSpec]]:
    for lengths, size in [((1,), 7), ((1, 1, 1), 64), ((5, 1, 30, 2), 100)]:
        starts = torch.tensor([0, *lengths]).cumsum(0).int()
        yield Example(LastRowsSpec(dtype), (torch.randn(sum(lengths), size, generator=generator).to(dtype), starts))


OP: Op[LastRows, LastRowsSpec] = Op(
    name="last_rows",
    reference=last_rows,
    tolerances={torch.float32: EXACT, torch.bfloat16: EXACT, torch.float16: EXACT},
    examples=_examples,
    invariant=True,
)
