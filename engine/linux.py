"""What a process asks of Linux's kernel for itself, by prctl(2)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def set_process_name(name: str) -> None:
    """What ``ps`` and ``top`` show, 15 characters at most. Linux only; elsewhere it stays ``python``."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind. Stays so in a program that replaces it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """Have this process killed when the thread of ``parent`` that has started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # It had ended before.
        os._exit(os.EX_UNAVAILABLE)
