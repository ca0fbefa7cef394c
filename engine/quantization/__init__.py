"""Weight-only quantizations: one module each, found by name.

A module that defines ``build(kernels)``, which returns a ``Quantization`` (``engine.layers.base``), is what
``--quantization`` accepts under the module's name. The scan reads names alone, so that the gateway may check a
setting without importing torch.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from engine.layers.base import Quantization
    from kernels.registry import Kernels

NONE = "none"
"""Weights stay in the dtype that ``--dtype`` chooses."""


def quantization_names() -> list[str]:
    """What ``--quantization`` accepts: ``none`` and the modules of this package."""
    return [NONE, *sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")]


def find_quantization(name: str, kernels: Kernels) -> Quantization | None:
    """The quantization of that name, None for ``none``. Raises ConfigurationError where it cannot be had."""
    if name == NONE:
        return None
    if name not in quantization_names():
        raise ConfigurationError(f"There is no quantization {name!r}; there are: {', '.join(quantization_names())}.")
    quantization: Quantization = import_module(f"{__name__}.{name}").build(kernels)
    return quantization
