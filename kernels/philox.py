"""Philox4x32-10: a counter-based generator of random integers (Salmon et al. 2011, the Random123 library).

The noise of sampling is a pure function of (seed, choice, position, token id): the seed is the key and the others make
the counter, so no generator has a state and no row depends on another. Every provider of ``sample_tokens`` uses the
same integers bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF
LANES = 4
"""Words of one counter, so tokens that share it: token id = LANES * block + lane."""


def philox(seeds: Tensor, choices: Tensor, positions: Tensor, blocks: Tensor) -> Tensor:
    """32-bit words [N, 4], one for each token id ``4 * block + lane``.

    All int64 [N]. seeds hold the 64 bits of the key in two's complement; choices, positions and blocks are in
    [0, 2^32). The counter is (block, position, choice, 0), its first word first.
    """
    key0, key1 = seeds & WORD, (seeds >> 32) & WORD
    return torch.stack(philox4x32((blocks, positions, choices, torch.zeros_like(blocks)), (key0, key1)), dim=-1)


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The generator itself, on 32-bit words held in int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # They wrap at 64 bits, which loses nothing.
        c0, c1 = ((product1 >> 32) & WORD) ^ c1 ^ k0, product1 & WORD
        c2, c3 = ((product0 >> 32) & WORD) ^ c3 ^ k1, product0 & WORD
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & WORD, (k1 + KEY_INCREMENTS[1]) & WORD
    return [c0, c1, c2, c3]
