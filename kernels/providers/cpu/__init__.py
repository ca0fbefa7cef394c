"""Kernels in plain C, one source built for several instruction sets; see ``native/vec.h`` and ``native/team.h``."""

from __future__ import annotations


def build() -> str:
    """Name of the build that computes on this processor, and the digest of its sources and flags."""
    from kernels.providers.cpu.loader import load, sources_of

    library = load()
    return f"{library.variant} {sources_of(library)}"
