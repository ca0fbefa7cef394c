"""The builds of the kernels: their compiler flags, which processor each is for, and the sources it was made of.

``setup.py`` builds from this table and ``loader.py`` chooses by it. The standard library only: at build time there is
no torch.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "native"

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-g0",  # Python's own flags may ask for symbols: ten times the size
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fwrapv",
    "-ffp-contract=off",
    "-Wno-psabi",  # a note on passing vectors between files, which the kernels never do
)
"""Of every build."""


class Variant(NamedTuple):
    name: str
    flags: tuple[str, ...]
    capabilities: frozenset[str] = frozenset()
    """Of a processor, as torch names them, for which this build is the right one; empty where every one will do."""

    @property
    def file(self) -> str:
        return f"_{self.name}.so"


VARIANTS = {
    "x86_64": (
        Variant(
            "avx512",
            ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
            frozenset({"AVX512"}),
        ),
        Variant("avx2", ("-mavx2", "-mfma", "-mf16c"), frozenset({"AVX2"})),
        Variant("baseline", ()),
    ),
    "aarch64": (Variant("neon", ()),),
}
"""By machine; the first that fits a processor is the one it computes with."""
MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}
"""Other systems' names of the machines."""


def builds() -> tuple[Variant, ...]:
    """For processors of this machine's kind."""
    machine = platform.machine()
    return VARIANTS.get(MACHINES.get(machine, machine), ())


def choose(capability: str) -> Variant | None:
    """The build for a processor of this machine's kind, whose instruction set torch gives this name.

    There is no second best: numerics follow from the processor, so two installations on it compute the same bits.
    """
    fitting = (variant for variant in builds() if not variant.capabilities or capability in variant.capabilities)
    return next(fitting, None)


def digest(variant: Variant) -> str:
    """Hex digest of what a build is made of: flags, and the name and content of every source."""
    total = hashlib.sha256(repr((FLAGS, variant.flags)).encode())
    for path in sorted(SOURCES.glob("*.[ch]")):
        content = path.read_bytes()
        total.update(f"{path.name} {len(content)}\n".encode() + content)
    return total.hexdigest()[:32]
