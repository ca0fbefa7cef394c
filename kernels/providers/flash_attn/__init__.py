"""Attention by the package flash-attn (Dao 2023), where it is installed. When it is chosen: ``docs/gpu.md``."""

from __future__ import annotations

from kernels import installed

PACKAGE = "flash_attn"


def build() -> str:
    """Version of the package, which computes what it likes: called once it is imported."""
    return f"{PACKAGE} {installed.version(PACKAGE)}"
