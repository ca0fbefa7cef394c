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

    def run(self, tokens: int, sequences: int) -> None:
        """Compute the pass again, for the first ``tokens`` rows and ``sequences`` of the captured buffers."""
        ...


def capture(machine: Machine, forward: Callable[[], Tensor]) -> Replay | None:
    """``forward`` reads persistent buffers of the largest size alone, and its course does not depend on their content.

    None where that cannot be kept: part of it is computed by something else than the device's replayable kernels.
    """
    if machine.device != "cpu":
        return None
    from kernels.providers.cpu import loader, recording  # Imported here: another device needs no library.

    return recording.record(loader.load(), forward) if loader.available() else None
