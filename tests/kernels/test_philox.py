"""Philox4x32-10 against Random123's known answers and against a plain-Python version."""

import random

import pytest
import torch

from kernels.philox import philox, philox4x32

# From Random123's kat_vectors: counter, key, result.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text):
    return [int(word, 16) for word in text.split()]


def plain_philox(counter, key):
    """The algorithm of the paper in Python's unbounded integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    c = tuple(torch.tensor([word]) for word in words(counter))
    k = tuple(torch.tensor([word]) for word in words(key))
    assert [int(word) for word in philox4x32(c, k)] == words(expected)
    assert plain_philox(words(counter), words(key)) == words(expected)


def test_the_counter_is_block_position_choice_and_the_seed_is_the_key():
    draw = random.Random(0)
    seeds = [draw.getrandbits(64) for _ in range(200)] + [0, 2**64 - 1, 2**63]
    rows = [(draw.getrandbits(32), draw.getrandbits(32), draw.getrandbits(32)) for _ in seeds]
    signed = torch.tensor([seed - 2**64 if seed >= 2**63 else seed for seed in seeds])
    choices, positions, blocks = torch.tensor(rows).unbind(-1)
    expected = [
        plain_philox((block, position, choice, 0), (seed % 2**32, seed >> 32))
        for seed, (choice, position, block) in zip(seeds, rows, strict=True)
    ]
    assert philox(signed, choices, positions, blocks).tolist() == expected
