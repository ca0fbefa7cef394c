"""Servers that a benchmark starts: their log, their readiness, their memory and CPU time, and their end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil


class StartError(Exception):
    """A process ended, or was not ready in time. The message ends with the last lines of its log."""


def end_at_signals() -> None:
    """SIGTERM ends this process as Ctrl-C does: with all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def run(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, *, pipes: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; all of the group is ended at the exit. Its output goes to ``log``.

    With ``pipes`` its input and output are pipes, and only its errors go to the log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=output,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    family = [] if process.poll() is not None else tree(process.pid)
    for number, patience in ((signal.SIGCONT, 0.0), (signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        # What left the group is reached one by one.
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        psutil.wait_procs(family, timeout=patience)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, limit: float) -> None:
    """Until ``url`` answers with success. Raises StartError."""
    end = time.monotonic() + limit
    # One client for all attempts: making one costs more CPU time than the rest of an attempt, and the server needs it.
    with httpx.Client(timeout=2, trust_env=False) as client:
        while not _is_success(client, url):
            if process.poll() is not None:
                raise StartError(f"ended with status {process.returncode}\n{tail(log)}")
            if time.monotonic() > end:
                raise StartError(f"not ready after {limit:g} s\n{tail(log)}")
            time.sleep(0.02)


def _is_success(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.TransportError:
        return False


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that came from it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a tree, that of children which have ended included."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(pid: int) -> dict[str, int]:
    """Bytes resident in a tree, now and at each process's peak. Pages that processes share count once for each."""
    now = peak = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            now += _kilobytes(status, "VmRSS")
            peak += _kilobytes(status, "VmHWM")
    return {"resident": now, "peak": peak}


def _kilobytes(status: str, name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Suspend or continue a tree, so that an idle server takes no CPU time from the one that is measured."""
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def machine_busy_seconds() -> float:
    """CPU time that all processes of the machine have used."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)
