"""How models write tool calls and reasoning: one file for each format, found by package scan."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from gateway.completion.formats.base import ReasoningFormat, ToolFormat

AUTO, NONE = "auto", "none"


def tool_formats() -> Mapping[str, ToolFormat]:
    """Name → format."""
    return _found("TOOLS")


def reasoning_formats() -> Mapping[str, ReasoningFormat]:
    """Name → format."""
    return _found("REASONING")


@cache
def _found(attribute: str) -> Mapping[str, Any]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: getattr(module, attribute) for name, module in modules.items() if hasattr(module, attribute)}


def choose_tool_format(name: str, template: str | None) -> str | None:
    """The format of that name; with ``auto`` the one that the template teaches. None where there is none."""
    return _choose(name, template, {key: each.detect for key, each in tool_formats().items()})


def choose_reasoning_format(name: str, template: str | None) -> str | None:
    """The same for reasoning."""
    return _choose(name, template, {key: each.detect for key, each in reasoning_formats().items()})


def _choose(name: str, template: str | None, detectors: Mapping[str, Callable[[str], bool]]) -> str | None:
    if name == AUTO:
        return next((key for key, detect in detectors.items() if template is not None and detect(template)), None)
    return None if name == NONE else name
