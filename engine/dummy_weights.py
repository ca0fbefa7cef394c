"""Random weights in place of a checkpoint's (``--load-format dummy``): speed does not depend on what they are."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from engine.layers.base import WeightSlot
from engine.loader import Progress, fill_and_pack
from engine.models.base import Model
from engine.threads import PIECE, in_threads

STREAM = 1 << 20
"""Numbers drawn from one generator: the unit that threads share, so their number does not change the weights."""


def dummy_weights(model: Model, seed: int, progress: Progress) -> str:
    """Fill and pack every layer with seeded random numbers that keep activations sensible; returns a digest."""
    numbers = itertools.count()

    def fill(slot: WeightSlot) -> None:
        if slot.constant is not None:
            slot.destination.fill_(slot.constant)
        else:
            _draw(slot.destination, [seed, next(numbers)])

    fill_and_pack(model.layers(), fill, progress)
    return f"dummy {seed}"


def _draw(destination: Tensor, key: list[int]) -> None:
    """Uniform numbers of mean 0 and variance 1 / K into a contiguous [..., K]. Uniform ones are quick to draw."""
    flat, width = destination.view(-1), (12 / destination.shape[-1]) ** 0.5

    def stream(start: int) -> None:
        generator = np.random.Generator(np.random.SFC64([*key, start]))
        scratch = np.empty(PIECE, np.float32)
        for at in range(start, min(start + STREAM, len(flat)), PIECE):
            part = flat[at : min(at + PIECE, start + STREAM)]
            drawn = torch.from_numpy(generator.random(dtype=np.float32, out=scratch[: len(part)]))
            part.copy_(drawn.sub_(0.5).mul_(width))

    in_threads(stream, range(0, len(flat), STREAM))
