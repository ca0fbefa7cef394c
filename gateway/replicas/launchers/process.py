"""A child process on this machine.

Its standard input first carries the configuration, one line of JSON, and then stays open as a lifeline: when the
gateway dies, however it dies, the engine reads the end of it and exits. Standard output and error go to the
gateway's standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import site
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import engine
from engine.config import EngineConfig
from gateway.replicas.launchers import EngineProcess, Launcher


class ChildProcess(EngineProcess):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def dump(self) -> None:
        self._signal(signal.SIGUSR1)

    def close_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


class ProcessLauncher(Launcher):
    def __init__(self, command: Sequence[str] = ()) -> None:
        """``command`` replaces the engine's own; ``--endpoint`` and ``--epoch`` are appended to it."""
        # -P: `-m` would put the current folder first on the path, where anything may shadow our packages.
        self._command = list(command) or [sys.executable, "-P", "-m", "engine.process"]

    async def launch(self, config: EngineConfig, *, endpoint: str, epoch: int) -> ChildProcess:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            "--endpoint",
            endpoint,
            "--epoch",
            str(epoch),
            stdin=asyncio.subprocess.PIPE,
            stdout=2,
            env=_environment(config),
            # Ctrl-C at the terminal is for the gateway, which drains; the engine must live until it is told to end.
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        return ChildProcess(process)


def _environment(config: EngineConfig) -> dict[str, str]:
    environment = dict(os.environ)
    if config.num_threads is not None:
        # OpenMP and MKL read these once, when torch is imported.
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(config.num_threads)
    # GNU OpenMP spins at the end of each parallel region for as long as it thinks every thread has a core to itself.
    # The gateway, or anything else that runs, makes that untrue, and then each step waits out whole time slices.
    environment.setdefault("GOMP_SPINCOUNT", "1000")
    root = Path(engine.__file__).resolve().parent.parent
    if root not in {Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())}:
        # A bare or editable checkout, which -P keeps from being found by being the current folder.
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else str(root)
    return environment
