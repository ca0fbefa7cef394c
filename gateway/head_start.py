"""An engine process that is started before anything is known of what it will serve.

Importing torch is most of an engine's start and needs no configuration, which an engine therefore takes later, from
its standard input. This module is imported before all else, and imports next to nothing.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import engine
from engine import flight_record

# -P: `-m` would put the current folder first on the path, where anything may shadow our packages.
ENGINE = (sys.executable, "-P", "-m", "engine.process")


@dataclass(frozen=True)
class Spawned:
    process: subprocess.Popen[bytes]
    record: int
    """Descriptor of the memory for its flight record; the process has inherited it under the same number."""

    def discard(self) -> None:
        """Nobody needs the process."""
        with self.process:
            self.process.kill()
        os.close(self.record)


def spawn(command: Sequence[str] = ENGINE) -> Spawned:
    """A process that waits for its configuration; its output goes to our standard error. Raises ``OSError``."""
    record = flight_record.create()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=2,
            env=environment(),
            pass_fds=(record,),
            # Ctrl-C at the terminal is for the gateway, which drains; the engine must live until it is told to end.
            start_new_session=True,
        )
    except OSError:
        os.close(record)
        raise
    return Spawned(process, record)


class HeadStart:
    """One such process, for whoever launches the first engine. Leaving the ``with`` block ends it if nobody took it."""

    def __init__(self, command: Sequence[str] = ENGINE) -> None:
        self.began = time.monotonic()
        """The beginning of the command, to all intents."""
        self._spawned: Spawned | None = None
        with suppress(OSError):  # whoever starts an engine without a head start will say why it cannot be
            self._spawned = spawn(command)

    def take(self) -> Spawned | None:
        """The process, to the first who asks and if it is alive."""
        spawned, self._spawned = self._spawned, None
        if spawned is not None and spawned.process.poll() is not None:
            spawned.discard()
            return None
        return spawned

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spawned = self.take()
        if spawned is not None:
            spawned.discard()


def environment() -> dict[str, str]:
    """Of a process that is to find our packages."""
    environment = dict(os.environ)
    # GNU OpenMP spins at the end of each parallel region for as long as it thinks every thread has a core to itself.
    # The gateway, or anything else that runs, makes that untrue, and then each step waits out whole time slices.
    environment.setdefault("GOMP_SPINCOUNT", "1000")
    root = Path(engine.__file__).resolve().parent.parent
    if root not in {Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())}:
        # A bare or editable checkout, which -P keeps from being found by being the current folder.
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else str(root)
    return environment
