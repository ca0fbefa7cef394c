"""A child process on this machine.

Its standard input first carries a ``Launch``, one line of JSON, and then stays open as a lifeline: when the gateway
dies, however it dies, the engine reads the end of it and exits. Standard output and error go to the gateway's standard
error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine import flight_record
from engine.config import EngineConfig
from engine.launch import Launch
from gateway.head_start import ENGINE, HeadStart, Spawned, spawn
from gateway.replicas.launchers import EngineProcess, Launcher

FRAMES = 4
"""Of the kernel's stack of a thread, innermost first, that are worth a place in the log."""


class ChildProcess(EngineProcess):
    """Waited for by a thread, since it may have been started before there was an event loop."""

    def __init__(self, spawned: Spawned) -> None:
        self._process = process = spawned.process
        self._record = spawned.record
        self._executing: dict[str, tuple[int, ...]] | None = None
        self.pid = process.pid
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = loop.create_future()
        threading.Thread(target=self._reap, args=(loop,), name=f"wait for {self.pid}", daemon=True).start()

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        status = self._process.wait()
        self._executing = flight_record.read(self._record)
        os.close(self._record)
        self.close_input()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._exited.set_result, status)

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    def executing(self) -> dict[str, tuple[int, ...]] | None:
        return self._executing

    def look(self) -> str:
        return look_at(self.pid)

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

    async def launch(self, config: EngineConfig, *, endpoint: str, epoch: int, standby: bool = False) -> ChildProcess:
        started = self._head_start.take() if self._head_start is not None else None
        spawned = started or spawn(self._command)
        launched = Launch(endpoint=endpoint, epoch=epoch, config=config, standby=standby, record=spawned.record)
        pipe = spawned.process.stdin
        assert pipe is not None
        child = ChildProcess(spawned)
        with contextlib.suppress(BrokenPipeError):  # it is dead already, as whoever waits for it will learn
            pipe.write(msgspec.json.encode(launched) + b"\n")
            pipe.flush()
        return child


def look_at(pid: int) -> str:
    """What the kernel knows of a process that is stuck, thread by thread: state, and where in the kernel it waits."""
    threads = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):  # it has just ended
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
            state = status.get("State", "?").strip()
            threads.append(f"thread {task.name} ({status.get('Name', '?')}): {state}, waits in {_waits_in(task)}")
    stopped = (
        "it is stopped by a signal and cannot write its own stacks; " if any("(stop" in t for t in threads) else ""
    )
    return stopped + ("; ".join(threads) or "nothing is known of it")


def _waits_in(task: Path) -> str:
    """The kernel's stack where we may read it, else the name of its function, if any."""
    with contextlib.suppress(OSError):
        if frames := (task / "stack").read_text().split("\n")[:-1]:
            return " < ".join(frame.split()[-1] for frame in frames[:FRAMES])
    with contextlib.suppress(OSError):
        if (name := (task / "wchan").read_text()) not in ("", "0"):
            return name
    return "nothing"
