"""Capture of a forward pass, to be replayed in one call for any number of rows.

A step of a small model costs more in calls from Python than in arithmetic. Where every kernel of a forward pass is one
that its device can replay, the pass runs once over buffers of the largest size and its launches are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from kernels.registry import Machine

if TYPE_CHECKING:
    from kernels.providers.cpu.library import Library


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
    """``forward`` gives hidden states, ``tail`` makes results of them.

    Both read persistent buffers of the largest size alone, and their course does not depend on what these hold. There
    is a row for each token of a step until the op ``last_rows`` leaves one for each sequence. None where the pass
    cannot be kept: part of it is computed by something else than the device's replayable kernels.
    """
    library = _library(machine)
    if library is None:
        return None
    from kernels.providers.cpu import recording

    return recording.record(library, forward, tail)


def outside(
    machine: Machine, compute: Callable[..., None], shape: tuple[int, ...], first: Tensor, *inputs: Tensor
) -> Tensor:
    """A result of something that is no kernel, a message between processes say, which may be captured as well.

    ``compute(rows, out, first, *inputs)`` fills the first rows of ``out`` from those of the inputs. It is called now
    or, during a capture, at this place of every replay. The result has the dtype of ``first``.
    """
    library = _library(machine)
    if library is not None:
        return library.outside(compute, shape, (first, *inputs))
    out = torch.empty(shape, dtype=first.dtype, device=first.device)
    compute(len(out), out, first, *inputs)
    return out


def _library(machine: Machine) -> Library | None:
    if machine.device != "cpu":
        return None
    from kernels.providers.cpu import loader  # Imported here: another device needs no library.

    return loader.load() if loader.available() else None
