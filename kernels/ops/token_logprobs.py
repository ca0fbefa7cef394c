"""Log-probabilities of given tokens, their ranks, and those of the likeliest tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.registry import Example, Op, Tolerance


class TokenLogprobs(Protocol):
    def __call__(self, logits: Tensor, targets: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True)
class TokenLogprobsSpec:
    vocab_size: int


def token_logprobs(logits: Tensor, targets: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logprob [R] float32, rank [R] int64, top ids [R, top] int64, top logprobs [R, top] float32).

    logits [R, V] float32; targets [R] int64. The natural logarithm of the softmax. Tokens are in falling order of
    logprob, ties by the lower id; a rank is a place in that order, 1 for the likeliest. ``top`` is at most V.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    order = _order_keys(logits)
    ranks = (order > order.gather(-1, targets[:, None])).sum(-1) + 1
    top_ids = torch.topk(order, top, dim=-1).indices
    return logprobs.gather(-1, targets[:, None])[:, 0], ranks, top_ids, logprobs.gather(-1, top_ids)


def _order_keys(values: Tensor) -> Tensor:
    """Distinct int64 keys [R, V] in the order of values, the lower index being the greater of two equals.

    The upper half is a float's bits, turned so that they compare as the float does; the lower half the index.
    """
    bits = (values + 0.0).view(torch.int32).long()  # -0.0 + 0.0 is 0.0, so that both zeros are equal here too.
    rising = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    index = torch.arange(values.shape[-1], device=values.device)
    return (rising << 32) - index


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[TokenLogprobsSpec]]:
    for rows, vocab_size, top in [(1, 11, 0), (4, 11, 11), (6, 2000, 20)]:
        logits = torch.randn(rows, vocab_size, generator=generator).mul(4).round() / 2  # Many ties.
        targets = torch.randint(0, vocab_size, (rows,), generator=generator)
        yield Example(TokenLogprobsSpec(vocab_size), (logits, targets, top))


OP: Op[TokenLogprobs, TokenLogprobsSpec] = Op(
    name="token_logprobs",
    reference=token_logprobs,
    tolerances={torch.float32: Tolerance(1e-5, 1e-5)},
    examples=_examples,
)
