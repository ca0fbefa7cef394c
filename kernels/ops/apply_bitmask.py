"""Rule tokens out: what may not be sampled gets a logit of -inf."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.registry import EXACT, Example, Op


class ApplyBitmask(Protocol):
    def __call__(self, logits: Tensor, bits: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ApplyBitmaskSpec:
    vocab_size: int


def apply_bitmask(logits: Tensor, bits: Tensor) -> Tensor:
    """Logits [R, V] float32 with -inf in place of each whose bit is 0; a new tensor.

    bits [R, ceil(V / 32)] int32: token ``t`` has bit ``t % 32`` of word ``t // 32``, the lowest bit being bit 0.
    """
    lanes = torch.arange(32, dtype=torch.int32, device=bits.device)
    allowed = (bits[:, :, None] >> lanes & 1).flatten(1)[:, : logits.shape[1]]
    return logits.masked_fill(allowed == 0, -torch.inf)


def _examples(dtype: torch.dtype, generator: torch.Generator) -> Iterator[Example[ApplyBitmaskSpec]]:
    for rows, vocab_size in [(1, 1), (1, 31), (2, 32), (3, 33), (9, 1003), (4, 4096)]:
        logits = torch.randn(rows, vocab_size, generator=generator)
        words = torch.randint(-(2**31), 2**31, (rows, -(-vocab_size // 32)), generator=generator).int()
        words[:, ::3] = 0
        words[:, 1::3] = -1
        yield Example(ApplyBitmaskSpec(vocab_size), (logits, words))


OP: Op[ApplyBitmask, ApplyBitmaskSpec] = Op(
    name="apply_bitmask", reference=apply_bitmask, tolerances={torch.float32: EXACT}, examples=_examples, invariant=True
)
