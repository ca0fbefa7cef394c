"""Executors: one module each, found by name."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from engine.errors import ConfigurationError
from engine.executor.base import Executor

AUTO = "auto"


def executor_names() -> list[str]:
    """The modules of this package, which is what ``--executor`` accepts."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def find_executor(name: str, ranks: int = 1) -> type[Executor]:
    """The Executor that module ``name`` of this package defines; ConfigurationError where there is none.

    ``auto`` is the one that runs so many ranks.
    """
    if name == AUTO:
        name = "uniproc" if ranks == 1 else "multiproc"
    if name not in executor_names():
        raise ConfigurationError(f"There is no executor {name!r}; there are: {', '.join(executor_names())}.")
    module = import_module(f"{__name__}.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Executor) and value.__module__ == module.__name__:
            return value
    raise ConfigurationError(f"The module {module.__name__} defines no Executor.")
