"""The import name ``kernels`` is shared with a distribution of Hugging Face's; ours must be the one that answers to it.

``kernels`` is a namespace package here and a regular one there. Installed side by side ours works, because the two are
different distributions in one folder; run from a bare checkout, Hugging Face's is found first and hides ours.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from engine.errors import ConfigurationError


def require_own_kernels() -> None:
    """Raise ConfigurationError, in one line, where ``kernels.registry`` is not ours."""
    problem = foreign_kernels(find_spec("kernels"))
    if problem:
        raise ConfigurationError(problem)


def foreign_kernels(spec: ModuleSpec | None) -> str:
    """What is wrong with the package found as ``kernels``, empty if nothing is."""
    if spec is None:
        return "the package 'kernels' is missing: install Penstock, or run it from the root of its checkout"
    if any((Path(folder) / "registry.py").is_file() for folder in spec.submodule_search_locations or ()):
        return ""
    return (
        f"another package named 'kernels' ({spec.origin}) hides Penstock's: install Penstock with pip "
        "rather than running it from a checkout, or uninstall the other"
    )
