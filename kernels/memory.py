"""Large stretches of the host's memory."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from torch import Tensor

AHEAD = 512 << 20
"""Bytes that ``PagesAhead`` provides beyond those in use."""
PIECE = 2 << 20
"""Bytes that it asks for at once: one large page, which takes the system half a millisecond, or 20 on a virtual machine
whose host has to find the memory first."""
_MADV_POPULATE_WRITE = 23
"""Linux 5.14; the mmap module does not name it."""


def untouched(size: int) -> Tensor:
    """``size`` zero bytes whose pages the system provides when they are first written, large ones where it has them.

    What is read from end to end at every step, or in small pieces from all over, spends less on translating addresses.
    Raises OSError or OverflowError where there is no room for it.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows.
        return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class PagesAhead:
    """Has the system provide pages of untouched memory before they are written, a piece at a time.

    Otherwise it does so, and clears each page, in the middle of the step that writes there first. For memory that is
    used from its beginning on. Linux only; elsewhere nothing is ever left to do.
    """

    def __init__(self, memory: Tensor) -> None:
        """``memory``: contiguous, and as yet untouched."""
        self._memory, self._size = memory, memory.nbytes
        self._provided = 0
        self._wanted = min(AHEAD, self._size) if sys.platform == "linux" else 0

    def reach(self, used: int) -> None:
        """The first ``used`` bytes are in use, or about to be."""
        if self._wanted:
            self._provided = max(self._provided, used)
            self._wanted = max(self._wanted, min(used + AHEAD, self._size))

    def provide(self) -> bool:
        """Provide the next piece; False where nothing is left to do."""
        if self._provided >= self._wanted:
            return False
        at = (self._memory.data_ptr() + self._provided) // mmap.PAGESIZE * mmap.PAGESIZE
        length = min(PIECE, self._memory.data_ptr() + self._size - at)
        madvise = ctypes.CDLL(None).madvise
        if madvise(ctypes.c_void_p(at), ctypes.c_size_t(length), _MADV_POPULATE_WRITE):
            self._wanted = 0  # An older system, or no memory: pages come when they are written.
        self._provided += PIECE
        return True
