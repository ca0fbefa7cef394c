"""Random weights in place of a checkpoint's (``--load-format dummy``): speed does not depend on what they are."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch

from engine.layers.base import WeightSlot
from engine.loader import Progress, fill_and_pack
from engine.models.base import Model
from engine.parallel import Span
from engine.threads import PIECE, in_threads

STREAM = 1 << 20
"""Numbers drawn from one generator, about: the unit that threads share, so their number does not change the weights."""


def dummy_weights(model: Model, seed: int, progress: Progress) -> str:
    """Fill and pack every layer with seeded random numbers that keep activations sensible; returns a digest.

    A number follows from the seed, the weight's name and its place in the whole weight, whoever has which part of it;
    on a GPU that holds all of a weight, from its generator.
    """

    def fill(slot: WeightSlot) -> None:
        if slot.constant is not None:
            slot.destination.fill_(slot.constant)
        elif slot.destination.device.type != "cpu" and slot.shape == tuple(slot.destination.shape):
            _draw_there(slot, seed ^ crc32(slot.name.encode()))
        else:
            _draw(slot, [seed, crc32(slot.name.encode())])

    fill_and_pack(model.layers(), fill, progress)
    return f"dummy {seed}"


def _draw_there(slot: WeightSlot, seed: int) -> None:
    """The same by the device's own generator, whose numbers are others: billions would take a host long to send."""
    generator = torch.Generator(slot.destination.device).manual_seed(seed)
    width = (12 / slot.shape[1]) ** 0.5
    slot.destination.uniform_(-width / 2, width / 2, generator=generator)


def _draw(slot: WeightSlot, key: list[int]) -> None:
    """Uniform numbers of mean 0 and variance 1 / K into a part of [N, K]. Uniform ones are quick to draw."""
    rows, columns = slot.part or (Span.all(slot.shape[0]), Span.all(slot.shape[1]))
    width = (12 / columns.whole) ** 0.5
    at_once = max(1, PIECE // columns.whole)
    stream_rows = -(-max(STREAM // columns.whole, 1) // at_once) * at_once

    def stream(start: int) -> None:
        generator = np.random.Generator(np.random.SFC64([*key, start]))
        scratch = np.empty(at_once * columns.whole, np.float32)
        for first in range(start, min(start + stream_rows, rows.stop), at_once):
            drawn = torch.from_numpy(generator.random(dtype=np.float32, out=scratch)).view(at_once, columns.whole)
            low, high = max(first, rows.start), min(first + at_once, rows.stop)
            if low < high:
                wanted = drawn[low - first : high - first, columns.slice]
                slot.destination[low - rows.start : high - rows.start].copy_(wanted.sub_(0.5).mul_(width))

    in_threads(stream, range(rows.start // stream_rows * stream_rows, rows.stop, stream_rows))
