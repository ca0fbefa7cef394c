"""Attention by the package FlashInfer (Ye et al. 2025), where it is installed. When it is: ``docs/gpu.md``."""

from __future__ import annotations

from kernels import installed

PACKAGE = "flashinfer"


def build() -> str:
    """Version of the package, which computes what it likes: called once it is imported."""
    return f"{PACKAGE} {installed.version(PACKAGE)}"
