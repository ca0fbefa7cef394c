"""Builds the C kernels of ``kernels/providers/cpu``, one library for each instruction set; all else is pyproject.toml.

A machine without a compiler installs without them, and torch's reference computes.
"""

import copy
import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# By path, relative as setuptools wants its sources; importing the package would need torch, which is not there yet.
TABLE = runpy.run_path("kernels/providers/cpu/variants.py")


def extensions() -> list[Extension]:
    native = TABLE["SOURCES"]
    return [
        Extension(
            f"kernels.providers.cpu._{variant.name}",
            sorted(map(str, native.glob("*.c"))),
            depends=[*sorted(map(str, native.glob("*.h"))), str(native.parent / "variants.py")],
            define_macros=[("PENSTOCK_SOURCES", f'"{TABLE["digest"](variant)}"')],
            extra_compile_args=[*TABLE["FLAGS"], *variant.flags],
            libraries=["m"],
            optional=True,
        )
        for variant in TABLE["builds"]()
    ]


class BuildKernels(build_ext):
    """They are no Python modules: nothing of Python is linked, and each variant has objects of its own."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = True

    def build_extension(self, ext: Extension) -> None:
        own = copy.copy(self)
        own.build_temp = str(Path(self.build_temp) / ext.name)
        arguments = ext.extra_compile_args
        try:
            ext.extra_compile_args, ext.extra_link_args = [*arguments, "-fopenmp"], ["-fopenmp"]
            super(BuildKernels, own).build_extension(ext)
        except Exception:  # A compiler without OpenMP (Apple's): one thread computes.
            ext.extra_compile_args, ext.extra_link_args = arguments, []
            super(BuildKernels, own).build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def get_ext_filename(self, fullname: str) -> str:
        return f"{Path(*fullname.split('.'))}.so"


class KernelsWheel(bdist_wheel):
    """One wheel for every Python 3 on the platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels, "bdist_wheel": KernelsWheel})
