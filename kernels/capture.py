"""Capture of a forward pass, to be replayed in one call for any number of rows.

A step of a small model costs more in calls from Python than in arithmetic. Where every kernel of a forward pass is one
that its device can replay, the pass runs once over buffers of the largest size and its launches are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from kernels.registry import Machine


class Replay(Protocol):
    output: Tensor
    """What the forward pass returned, of the largest size; a replay writes its leading rows."""
    tail: tuple[Tensor, ...]
    """What its tail returned, likewise."""

    def run(self, tokens: int, sequences: int) -> None:
        """Compute the pass again, for the first ``tokens`` rows and ``sequences`` of the captured buffers."""
        ...


def capture(
    machine: Machine, forward: Callable[[], Tensor], tail: Callable[[Tensor], tuple[Tensor, ...]]
) -> Replay | None:
    """``forward`` gives a row for each token of a step; ``tail`` makes of them results with a row for each sequence.

    Both read persistent buffers of the largest size alone, and their course does not depend on what these hold. None
    where that cannot be kept: part of it is computed by something else than the device's replayable kernels.
    """
    if machine.device != "cpu":
        return None
    from kernels.providers.cpu import loader, recording  # Imported here: another device needs no library.

    return recording.record(loader.load(), forward, tail) if loader.available() else None
