"""Large stretches of the host's memory."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor


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
