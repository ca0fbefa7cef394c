"""Chooses the build of the kernels that fits this processor, once a process."""

from __future__ import annotations

import logging
import platform
from functools import cache
from pathlib import Path

import torch

from kernels.providers.cpu.native import Library

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent

VARIANTS: dict[str, tuple[tuple[str, frozenset[str]], ...]] = {
    "x86_64": (
        ("avx512", frozenset({"AVX512"})),
        ("avx2", frozenset({"AVX512", "AVX2"})),
        ("baseline", frozenset()),
    ),
    "aarch64": (("neon", frozenset()),),
}
"""By machine: the builds, the best first, each with the capabilities, as torch names them, that it needs one of."""
MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}
"""Other systems' names of the machines."""


def available() -> bool:
    """Whether a build of the kernels fits; that none does is said once in the log."""
    return _find() is not None


def load() -> Library:
    """The kernels, where they are available."""
    library = _find()
    assert library is not None, "asked for only where available() holds"
    return library


@cache
def _find() -> Library | None:
    machine = platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    for variant, needs in VARIANTS.get(MACHINES.get(machine, machine), ()):
        if needs and capability not in needs:
            continue
        for path in sorted(FOLDER.glob(f"_{variant}.*so")):
            try:
                return Library(path, variant)
            except OSError as error:
                logger.warning("the kernels in %s cannot be loaded: %s", path.name, error)
    logger.warning(
        "no compiled kernels for %s (%s): torch computes instead, several times slower; "
        "install a C compiler and Penstock again to have them",
        machine,
        capability,
    )
    return None
