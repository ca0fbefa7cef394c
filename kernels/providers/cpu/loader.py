"""Loads the build of the kernels that fits this processor, once a process."""

from __future__ import annotations

import ctypes
import logging
import platform
from functools import cache

import torch

from kernels.providers.cpu.library import Library
from kernels.providers.cpu.variants import FOLDER, SOURCES, Variant, choose, digest

logger = logging.getLogger(__name__)


def available() -> bool:
    """Whether a build of the kernels fits; that none does is said once in the log."""
    return find() is not None


def load() -> Library:
    """The kernels, where they are available."""
    library = find()
    assert library is not None, "asked for only where available() holds"
    return library


@cache
def find() -> Library | None:
    """The kernels, or None where no build of them can be used; either is said once in the log."""
    capability = torch.backends.cpu.get_cpu_capability()
    variant = choose(capability)
    try:
        if variant is None:
            raise OSError(f"there is no build for {platform.machine()} ({capability})")
        library = open_build(variant)
    except OSError as error:
        logger.warning("torch computes in place of the compiled kernels, several times slower: %s", error)
        return None
    logger.debug("the kernels are the %s build", variant.name)
    return library


def open_build(variant: Variant) -> Library:
    """An installed build. Raises OSError, with what to do about it, where it is missing or must not be used.

    A checkout has the sources beside its builds. One that is made of others may take arguments for what they are not.
    """
    path = FOLDER / variant.file
    if not path.exists():
        raise OSError(f"the {variant.name} build is missing; install a C compiler, then Penstock again")
    library = Library(path, variant.name)
    if SOURCES.is_dir() and sources_of(library) != digest(variant):
        raise OSError(f"the {variant.name} build is not of the sources beside it; install Penstock again")
    return library


def sources_of(library: Library) -> str:
    """Digest of what a build was made of, as ``variants.digest`` gives it; empty where it does not say."""
    try:
        function = library.function("sources")
    except AttributeError:
        return ""
    function.restype = ctypes.c_char_p
    return bytes(function()).decode()
