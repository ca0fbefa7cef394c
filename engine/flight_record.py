"""The flight record: which choices the step under way computes, in memory that outlives the engine process.

The engine writes it before each step and the gateway reads it once the process is dead. A message could not tell it: a
socket is written by another thread, a moment later, and the crash that is to be told of may come first. What has been
stored in shared memory stays there however the process ends.

Layout: a header (whether what follows is whole, rows, bytes of names), for each row the number of tokens that its
sequence has once the step has computed its part, then the rows' names, one a line.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.arrays import IntArray

_HEADER = struct.Struct("<III")
_INT = 4
_LARGEST = 1 << 24
"""Bytes that a reader takes in."""


def create() -> int:
    """Descriptor of new memory, for one engine process to inherit."""
    return os.memfd_create("penstock-flight-record", os.MFD_CLOEXEC)


class FlightRecord:
    """The engine's end."""

    def __init__(self, descriptor: int) -> None:
        """``descriptor``: what ``create`` made. Processes that this one starts do not inherit it."""
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        self._descriptor = descriptor
        self._names: tuple[str, ...] = ()
        self._name_bytes = 0
        self._resize(mmap.PAGESIZE)

    def write(self, names: tuple[str, ...], tokens: IntArray) -> None:
        """These rows are about to be computed. The names are mostly those of the step before: then they stay."""
        self.clear()
        end = _HEADER.size + _INT * len(names)
        if names != self._names:
            blob = "\n".join(names).encode()
            if end + len(blob) > len(self._memory):
                self._resize(2 * (end + len(blob)))
            self._memory[end : end + len(blob)] = blob
            self._names, self._name_bytes = names, len(blob)
        self._memory[_HEADER.size : end] = tokens.tobytes()
        _HEADER.pack_into(self._memory, 0, 1, len(names), self._name_bytes)

    def clear(self) -> None:
        """What is computed next is not known yet."""
        _HEADER.pack_into(self._memory, 0, 0, 0, 0)

    def _resize(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self._memory = mmap.mmap(self._descriptor, size)


def read(descriptor: int) -> dict[str, tuple[int, ...]] | None:
    """Name → tokens, in each of the steps that a dead engine had under way; None where that is not known."""
    memory = os.pread(descriptor, min(os.fstat(descriptor).st_size, _LARGEST), 0)
    if len(memory) < _HEADER.size:
        return None
    whole, rows, name_bytes = _HEADER.unpack_from(memory)
    end = _HEADER.size + _INT * rows
    if whole != 1 or end + name_bytes > len(memory):
        return None
    # The process may have written anything anywhere before it died.
    names = memory[end : end + name_bytes].decode(errors="replace").split("\n")
    if len(names) != rows:
        return None
    tokens = struct.unpack_from(f"<{rows}i", memory, _HEADER.size)
    found: dict[str, tuple[int, ...]] = {}
    for name, count in zip(names, tokens, strict=True):
        found[name] = (*found.get(name, ()), count)
    return found


def union(rows: Sequence[tuple[tuple[str, ...], IntArray]]) -> tuple[tuple[str, ...], IntArray]:
    """The rows of several steps under way, as ``FlightRecord.write`` takes them."""
    if len(rows) == 1:
        return rows[0]
    import numpy as np

    return tuple(name for names, _ in rows for name in names), np.concatenate([tokens for _, tokens in rows])
