"""Builds the C kernels of ``kernels/providers/cpu``, one library for each instruction set; all else is pyproject.toml.

A machine without a compiler installs without them, and torch's reference computes.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("kernels/providers/cpu")
COMMON = ["-std=gnu11", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-fwrapv", "-ffp-contract=off"]
VARIANTS = {
    "x86_64": {
        "baseline": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
    },
    "aarch64": {"neon": []},
}
"""By machine: the builds and their compiler flags; ``loader.py`` chooses among them."""
MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}


def extensions() -> list[Extension]:
    machine = MACHINES.get(platform.machine(), platform.machine())
    sources = sorted(str(path) for path in (FOLDER / "native").glob("*.c"))
    headers = sorted(str(path) for path in (FOLDER / "native").glob("*.h"))
    return [
        Extension(
            f"kernels.providers.cpu._{variant}",
            sources,
            depends=headers,
            extra_compile_args=COMMON + flags,
            optional=True,
        )
        for variant, flags in VARIANTS.get(machine, {}).items()
    ]


class BuildKernels(build_ext):
    """They are no Python modules: nothing of Python is linked, and each variant has objects of its own."""

    def build_extension(self, ext: Extension) -> None:
        temp, self.build_temp = self.build_temp, str(Path(self.build_temp) / ext.name)
        arguments = ext.extra_compile_args
        try:
            try:
                ext.extra_compile_args, ext.extra_link_args = [*arguments, "-fopenmp"], ["-fopenmp"]
                super().build_extension(ext)
            except Exception:  # A compiler without OpenMP (Apple's): one thread computes.
                ext.extra_compile_args, ext.extra_link_args = arguments, []
                super().build_extension(ext)
        finally:
            self.build_temp = temp

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
