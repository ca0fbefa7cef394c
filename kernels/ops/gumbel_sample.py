"""Draw one token a row by the Gumbel-max trick: the argmax of logits plus Gumbel noise is a draw from their softmax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.ops.philox import LANES, philox
from kernels.registry import EXACT, Example, Op

OUT_OF_REACH = 22.0
"""A token this far below the row's best cannot win: the noise lies in [-2.86, 17.33]."""


class GumbelSample(Protocol):
    def __call__(self, logits: Tensor, seeds: Tensor, choices: Tensor, positions: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class GumbelSampleSpec:
    vocab_size: int


def gumbel_sample(logits: Tensor, seeds: Tensor, choices: Tensor, positions: Tensor) -> Tensor:
    """Token ids [R] int64: in each row the argmax of logit + noise, a tie going to the lowest id.

    logits [R, V] float32, filtered and divided by the temperature, -inf where a token is ruled out but not in a whole
    row; seeds, choices, positions [R] int64, as for ``philox``. A row's token depends on its own inputs alone.

    Noise is only drawn where it can matter, which changes no result.
    """
    vocab_size = logits.shape[-1]
    # Differences to the best: what is added to the noise stays small, whatever the temperature was.
    logits = logits - logits.amax(-1, keepdim=True)
    lanes = functional.pad(logits, (0, -vocab_size % LANES), value=-torch.inf).view(len(logits), -1, LANES)
    row, block = torch.nonzero((lanes >= -OUT_OF_REACH).any(-1), as_tuple=True)
    noise = gumbel(philox(seeds[row], choices[row], positions[row], block))
    scores = torch.full_like(lanes, -torch.inf)
    scores[row, block] = lanes[row, block] + noise
    return scores.flatten(1).argmax(-1)


def gumbel(words: Tensor) -> Tensor:
    """float32 noise ``-log(-log(u))`` of the uniform number ``u = ((word >> 8) + 0.5) * 2^-24``.

    In float64 until the end: u is exact there, and never 0 or 1.
    """
    uniform = ((words >> 8).double() + 0.5) * 2.0**-24
    return -torch.log(-torch.log(uniform)).float()


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[GumbelSampleSpec]]:
    for rows, vocab_size, spread in [(1, 5, 1.0), (9, 1003, 3.0), (4, 4096, 30.0)]:
        logits = torch.randn(rows, vocab_size, generator=generator) * spread
        logits[torch.rand(rows, vocab_size, generator=generator) < 0.3] = -torch.inf
        logits[:, 0] = 0.0
        seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
        choices, positions = torch.randint(0, 1000, (2, rows), generator=generator)
        yield Example(GumbelSampleSpec(vocab_size), (logits, seeds, choices, positions))


OP: Op[GumbelSample, GumbelSampleSpec] = Op(
    name="gumbel_sample", reference=gumbel_sample, tolerances={torch.float32: EXACT}, examples=_examples
)
