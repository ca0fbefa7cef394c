"""Packages that are used where somebody has installed them, by the calls that were known when this was written."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch

from kernels.registry import Machine, NotUsableError


def on_an_nvidia_gpu(package: str, machine: Machine, least: int) -> bool:
    """Whether the package is there, for a GPU of NVIDIA's from that capability on (80 for ``sm_80``).

    It is not imported. What such packages sum depends on the batch, so a deterministic machine has no use for them.
    """
    if machine.device != "cuda" or machine.deterministic or torch.version.hip is not None:
        return False
    return int(machine.capability.removeprefix("sm_")) >= least and importlib.util.find_spec(package) is not None


def call(package: str, path: str, passed: Collection[str]) -> Callable[..., Any]:
    """What the package has at ``path``, to be called with exactly the named arguments ``passed``.

    Raises NotUsableError where the package cannot be imported, or the call does not take these or wants more.
    """
    try:
        found: Any = importlib.import_module(package)
    except Exception as error:  # A compiled part for another torch fails in ways of its own.
        raise NotUsableError(f"{package} cannot be imported: {_one_line(error)}") from error
    name = f"{package} {version(package)}: {path}"
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise NotUsableError(f"{name} is not there")
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [each for each in inspect.signature(found).parameters.values() if each.kind in named]
    unknown = sorted(set(passed) - {each.name for each in parameters})
    if unknown:
        raise NotUsableError(f"{name} takes no {', '.join(unknown)}")
    wanted = [each.name for each in parameters if each.default is each.empty and each.name not in (*passed, "self")]
    if wanted:
        raise NotUsableError(f"{name} wants {', '.join(wanted)} too")
    known: Callable[..., Any] = found
    return known


def version(package: str) -> str:
    """That an imported package gives itself."""
    return str(getattr(importlib.import_module(package), "__version__", "of an unknown version"))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
