"""A child process on this machine.

Its standard input first carries a ``Launch``, one line of JSON, and then stays open as a lifeline: when the gateway
dies, however it dies, the engine reads the end of it and exits. Standard output and error go to the gateway's standard
error.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
from collections.abc import Sequence

import msgspec

from engine.config import EngineConfig
from engine.launch import Launch
from gateway.head_start import ENGINE, HeadStart, spawn
from gateway.replicas.launchers import EngineProcess, Launcher


class ChildProcess(EngineProcess):
    """Waited for by a thread, since it may have been started before there was an event loop."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = loop.create_future()
        threading.Thread(target=self._reap, args=(loop,), name=f"wait for {self.pid}", daemon=True).start()

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        status = self._process.wait()
        self.close_input()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._exited.set_result, status)

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    def dump(self) -> None:
        self._process.send_signal(signal.SIGUSR1)

    def close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it was told last has not reached it
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()


class ProcessLauncher(Launcher):
    def __init__(self, command: Sequence[str] = ENGINE, *, head_start: HeadStart | None = None) -> None:
        """``command`` replaces the engine's own. The first engine is that of ``head_start``, if it is still alive."""
        self._command = command
        self._head_start = head_start

    async def launch(self, config: EngineConfig, *, endpoint: str, epoch: int) -> ChildProcess:
        started = self._head_start.take() if self._head_start is not None else None
        process = started or spawn(self._command)
        assert process.stdin is not None
        child = ChildProcess(process)
        with contextlib.suppress(BrokenPipeError):  # it is dead already, as whoever waits for it will learn
            process.stdin.write(msgspec.json.encode(Launch(endpoint=endpoint, epoch=epoch, config=config)) + b"\n")
            process.stdin.flush()
        return child
