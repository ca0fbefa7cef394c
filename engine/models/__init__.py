"""One file for each architecture, found by package scan.

A module that declares ``ARCHITECTURES`` (names as in ``architectures`` of a config.json) and ``build(config, context)``
is a model; the other modules are what models share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeAlias

from engine.errors import ModelError
from engine.layers.base import LayerContext
from engine.models.base import Model
from engine.models.hf_config import HFConfig

Build: TypeAlias = Callable[[HFConfig, LayerContext], Model]


def architectures() -> dict[str, Build]:
    """Architecture name → builder."""
    found: dict[str, Build] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        found.update(dict.fromkeys(getattr(module, "ARCHITECTURES", ()), getattr(module, "build", None)))
    return found


def build_model(config: HFConfig, context: LayerContext) -> Model:
    """A model with room for its weights. Raises ModelError where the config asks for what is not supported."""
    known = architectures()
    named = config.strings("architectures")
    for name in named:
        if name in known:
            config.refuse_unsupported()
            return known[name](config, context)
    asked = ", ".join(named) or "none"
    raise ModelError(
        f"{config.source}: architecture {asked} is not supported; supported are {', '.join(sorted(known))}"
    )
