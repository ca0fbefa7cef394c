"""Where engine processes run: one launcher a module, found by its name.

A module here defines one subclass of ``Launcher``; its name is what ``find`` takes.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod

from engine.config import EngineConfig
from gateway.head_start import HeadStart


class EngineProcess(ABC):
    """A running engine process, as far as its supervisor needs it."""

    pid: int

    @abstractmethod
    async def wait(self) -> int:
        """Until it is dead for certain; its exit status, negative for a signal. Any number may wait."""

    def executing(self) -> dict[str, tuple[int, ...]] | None:
        """Once it is dead: the choices of the step under way, see ``Loss``. None where that is not known."""
        return None

    def look(self) -> str:
        """What can be seen of it from outside, while it is alive; for the log."""
        return "nothing is known of it"

    @abstractmethod
    def dump(self) -> None:
        """Asks for the stacks of its threads in its log (SIGUSR1). A no-op where it is dead."""

    @abstractmethod
    def close_input(self) -> None:
        """Lets go of its lifeline: it ends by itself. A no-op where it is dead."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL, which a stopped process obeys too. A no-op where it is dead."""


class Launcher(ABC):
    @abstractmethod
    def __init__(self, *, head_start: HeadStart | None = None) -> None:
        """``head_start`` is a process on this machine; a launcher that starts none here leaves it alone."""

    @abstractmethod
    async def launch(self, config: EngineConfig, *, endpoint: str, epoch: int, standby: bool = False) -> EngineProcess:
        """Starts an engine that connects to ``endpoint``. Raises ``OSError`` where it cannot be started.

        ``standby``: it is to load its weights and then to wait for ``Serve``.
        """


def available() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Launcher]:
    """Raises ``ValueError``, naming those there are."""
    if name not in available():
        raise ValueError(f"there is no launcher {name!r}; there are: {', '.join(available())}")
    module = importlib.import_module(f"{__name__}.{name}")
    for member in vars(module).values():
        if inspect.isclass(member) and issubclass(member, Launcher) and member.__module__ == module.__name__:
            return member
    raise ValueError(f"{module.__name__} defines no Launcher")
