"""The builds that tests run the kernels in: those installed, and some that are made for tests alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from remote_library import RemoteLibrary, harness

from kernels.providers.cpu.library import Library
from kernels.providers.cpu.loader import open_build
from kernels.providers.cpu.variants import FLAGS, FOLDER, SOURCES, VARIANTS, Variant, builds, choose

INCLUDED = {"AVX512": {"AVX512", "AVX2"}}
"""By capability: those that a processor of it has, where they are more than itself."""
HERE = torch.backends.cpu.get_cpu_capability()
OWN = choose(HERE)
INSTALLED = {
    variant.name: variant
    for variant in builds()
    if not variant.capabilities or variant.capabilities & INCLUDED.get(HERE, {HERE})
}
"""The builds that this processor can run."""
NEON = VARIANTS["aarch64"][0]
EMULATED = "neon-emulated"
NAMES = [*INSTALLED, *(["guarded", "checked", "wide"] if OWN else []), *([] if NEON.name in INSTALLED else [EMULATED])]
"""``guarded``: the build of this processor where memory ends at a page that may not be touched. ``checked``: the same
sources under the compiler's sanitizers. ``wide``: sixteen lanes, as with AVX-512, but without its instructions.
``neon-emulated``: for ARM, in an emulator.
"""

CHECKED = ("-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all")
WIDE = ("-DPENSTOCK_WIDTH=16",)
PLAIN, LITTLE = ("-O0",), ("-Og",)
"""gcc takes minutes to optimise what it has instrumented, or vectors wider than the machine's registers; a little of it
makes less code of those vectors, in half the time."""


def marks(name: str | None) -> list[pytest.MarkDecorator]:
    """Those that are made for tests take their time."""
    return [pytest.mark.slow] if name in {"checked", "wide", EMULATED} else []


class CountingLibrary(Library):
    """Counts launches, so that a test knows that it ran this build."""

    launches = 0

    def launch(self, *arguments: Any, **options: Any) -> None:
        self.launches += 1
        super().launch(*arguments, **options)


class Builds:
    """Each build by its name, opened when it is first asked for: as installed, or made in a new folder."""

    def __init__(self, new_folder: Callable[[str], Path]) -> None:
        self._new_folder = new_folder
        self._open: dict[str, Library] = {}

    def __getitem__(self, name: str) -> Library:
        if name not in self._open:
            self._open[name] = _opened(name, self._new_folder(name))
        return self._open[name]

    def close(self) -> None:
        for library in self._open.values():
            if isinstance(library, RemoteLibrary):
                library.close()


def _opened(name: str, folder: Path) -> Library:
    if name in INSTALLED:
        return CountingLibrary(_installed(INSTALLED[name]), name)
    if name == "wide":
        return CountingLibrary(compile_library(folder, "cc", (*OWN.flags, *WIDE, *LITTLE)), name)
    return RemoteLibrary(_command(name, folder), name)


def _command(name: str, folder: Path) -> list[str]:
    if name == EMULATED:
        compiler, emulator, root = "aarch64-linux-gnu-gcc", "qemu-aarch64-static", "/usr/aarch64-linux-gnu"
        require(emulator)
        library = compile_library(folder, compiler, NEON.flags)
        return [emulator, "-L", root, str(harness(folder, compiler, SOURCES)), str(library)]
    if name == "checked":
        library = compile_library(folder, "cc", (*OWN.flags, *CHECKED, *PLAIN))
        return [str(harness(folder, "cc", SOURCES, CHECKED)), str(library)]
    return [str(harness(folder, "cc", SOURCES)), str(_installed(OWN))]


def _installed(variant: Variant) -> Path:
    open_build(variant)  # says what to do where it is missing or stale
    return FOLDER / variant.file


def require(command: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is missing; scripts/install-debian-packages installs it")


def compile_library(folder: Path, compiler: str, flags: tuple[str, ...]) -> Path:
    """Compile the kernels' sources with the flags of every build and these."""
    require(compiler)
    common = [compiler, *FLAGS, "-fPIC", "-fopenmp", *flags]

    def compile_one(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        subprocess.run([*common, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted(SOURCES.glob("*.c"))))
    library = folder / "kernels.so"
    subprocess.run([*common, "-shared", *objects, "-o", str(library), "-lm"], check=True)
    return library
