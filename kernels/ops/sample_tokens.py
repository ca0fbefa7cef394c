"""Draw one token a row: temperature, top-k, top-p and min-p, then the Gumbel-max trick.

The argmax of logits plus Gumbel noise is a draw from their softmax. The noise is counter-based (``kernels.philox``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.philox import LANES, philox
from kernels.registry import EXACT, Example, Op

TINY, HUGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
OUT_OF_REACH = 22.0
"""A token this far below the row's best cannot win: the noise lies in [-2.86, 17.33]."""


class SampleTokens(Protocol):
    def __call__(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        seeds: Tensor,
        choices: Tensor,
        positions: Tensor,
    ) -> Tensor: ...


@dataclass(frozen=True)
class SampleTokensSpec:
    vocab_size: int


def sample_tokens(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    choices: Tensor,
    positions: Tensor,
) -> Tensor:
    """Token ids [R] int64. A row's token depends on its own inputs alone.

    logits [R, V] float32, no NaN and the best of each row finite. Of each row: temperature, top_p, min_p [R] float64
    (0 takes the likeliest token and ignores what follows; 1 and 0 switch the filters off); top_k [R] int64 (0 switches
    it off); seeds, choices, positions [R] int64, as for ``philox``. Ties go to the lower id.
    """
    tokens = logits.argmax(-1)
    drawn = torch.nonzero(temperature > 0).flatten()
    if not len(drawn):
        return tokens
    # The best is brought to 0 and the temperature kept within float32: however extreme it is, the best stays finite
    # and nothing becomes NaN.
    chosen = logits[drawn]
    scaled = (chosen - chosen.amax(-1, keepdim=True)) / temperature[drawn].clamp(TINY, HUGE).to(logits)[:, None]
    filters = torch.nonzero(((top_k > 0) | (top_p < 1.0) | (min_p > 0.0))[drawn]).flatten()
    if len(filters):
        limits = (each[drawn[filters]] for each in (top_k, top_p, min_p))
        scaled[filters] = filter_logits(scaled[filters], *limits)
    tokens[drawn] = gumbel_sample(scaled, seeds[drawn], choices[drawn], positions[drawn])
    return tokens


def filter_logits(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Logits [R, V] float32 with -inf where a filter rules the token out; one token at least is left in each row.

    In this order, as Hugging Face's logits warpers: top_k [R] int64 keeps the k greatest and what equals the last of
    them, 0 for all; top_p [R] float64 keeps the fewest likeliest of those whose probabilities reach p together
    (nucleus, Holtzman et al. 2020), ties going to the lower token id, 1 for all; min_p [R] float64 in [0, 1] keeps
    those at least min_p times as likely as the likeliest, 0 for all.
    """
    ordered, order = torch.sort(logits, dim=-1, descending=True, stable=True)
    last = torch.where(top_k > 0, top_k, logits.shape[-1]).clamp(max=logits.shape[-1]) - 1
    kept = ordered >= ordered.gather(-1, last[:, None])
    # Weights are single floats and sums of them double: sums of equal weights are exact, whoever adds them up.
    weights = torch.exp(ordered - ordered[:, :1]).masked_fill(~kept, 0.0).double()
    mass = weights.cumsum(-1)
    before = torch.roll(mass, 1, dims=-1)
    before[:, 0] = -1.0  # The likeliest token always stays.
    kept &= (before < top_p[:, None] * mass[:, -1:]) | (top_p[:, None] >= 1.0)
    kept &= weights >= min_p[:, None]
    return torch.full_like(logits, -torch.inf).scatter_(-1, order, ordered.masked_fill(~kept, -torch.inf))


def gumbel_sample(logits: Tensor, seeds: Tensor, choices: Tensor, positions: Tensor) -> Tensor:
    """Token ids [R] int64: in each row the argmax of logit + noise, a tie going to the lowest id.

    logits [R, V] float32, the best of each row 0, -inf where a token is ruled out. Noise is only drawn where it can
    matter, which changes no result.
    """
    lanes = functional.pad(logits, (0, -logits.shape[-1] % LANES), value=-torch.inf).view(len(logits), -1, LANES)
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


SETTINGS = [
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.8, 1, 1.0, 0.0),
    (1.3, 5, 1.0, 0.0),
    (1.0, 0, 0.5, 0.0),
    (2.0, 0, 1.0, 0.1),
    (0.7, 40, 0.9, 0.05),
    (1.0, 9999, 0.0, 0.0),
    (1e-300, 0, 0.9, 0.0),
    (1e300, 3, 0.6, 0.0),
]
"""(temperature, top_k, top_p, min_p) of the examples' rows."""


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[SampleTokensSpec]]:
    temperature, top_p, min_p = torch.tensor([(t, p, m) for t, _, p, m in SETTINGS], dtype=torch.float64).unbind(-1)
    filters = (temperature, torch.tensor([k for _, k, _, _ in SETTINGS]), top_p, min_p)
    rows = len(SETTINGS)
    for vocab_size, spread in [(1, 1.0), (11, 1.0), (1003, 3.0), (4096, 30.0), (13001, 2.0)]:
        logits = torch.randn(rows, vocab_size, generator=generator) * spread
        logits[:, ::7] = 1.0  # Ties.
        logits[:, 3::5] = -torch.inf
        seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
        choices, positions = torch.randint(0, 1000, (2, rows), generator=generator)
        yield Example(SampleTokensSpec(vocab_size), (logits, *filters, seeds, choices, positions))


OP: Op[SampleTokens, SampleTokensSpec] = Op(
    name="sample_tokens", reference=sample_tokens, tolerances={torch.float32: EXACT}, examples=_examples
)
