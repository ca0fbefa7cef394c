"""Weight-only quantizations: one module each, found by name.

A module that defines ``QUANTIZATION``, an object with the members of ``engine.layers.base.Quantization``, is what
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

NONE = "none"
"""Weights stay in the dtype that ``--dtype`` chooses."""


def quantization_names() -> list[str]:
    """What ``--quantization`` accepts: ``none`` and the modules of this package."""
    return [NONE, *sorted(module.name for module in pkgutil.iter_modules(__path__))]


def find_quantization(name: str, device: str) -> Quantization | None:
    """The quantization of that name, None for ``none``. Raises ConfigurationError where it cannot be had.

    ``device`` is torch's name of the device type.
    """
    if name == NONE:
        return None
    if name not in quantization_names():
        raise ConfigurationError(f"There is no quantization {name!r}; there are: {', '.join(quantization_names())}.")
    if device != "cpu":
        raise ConfigurationError(
            f"--quantization {name} runs on a CPU only: there are no {device} kernels for it yet; "
            "leave it out, or take --device cpu"
        )
    quantization: Quantization = import_module(f"{__name__}.{name}").QUANTIZATION
    return quantization
