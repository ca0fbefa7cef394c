"""Real processes: a server's first process stays as the stand-in of those that follow it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

FIRST = """
import os, subprocess, sys
from engine.linux import adopt_orphans
from gateway.handover import stand_in
adopt_orphans()
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
stand_in.become()
"""
"""A server that has handed over to the script that it is given."""

TELL = """
import os, pathlib, signal, sys, time
heard = open(pathlib.Path(os.environ["FOLDER"]) / "heard", "a", buffering=1)
def tell(number, _):
    print(signal.Signals(number).name, file=heard)
    if number == signal.SIGTERM:
        sys.exit(5)
for number in (signal.SIGRTMIN, signal.SIGTERM):
    signal.signal(number, tell)
print("ready", os.getpid(), os.getppid(), file=heard)
while True:
    time.sleep(0.05)
"""
"""A server that notes what it is told, and ends at SIGTERM with status 5."""

FORK = """
import os, subprocess, sys, time
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
subprocess.Popen([sys.executable, "-c", os.environ["NEXT"]])
time.sleep(0.2)
open(os.path.join(os.environ["FOLDER"], "engine"), "w").write(str(engine.pid))
os._exit(0)
"""
"""A server that is followed by another and leaves an engine behind."""


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    def begin(script: str, **environment: str) -> subprocess.Popen[bytes]:
        variables = {"PYTHONPATH": str(ROOT), "FOLDER": str(tmp_path), **environment}
        return subprocess.Popen([sys.executable, "-c", FIRST, script], env=os.environ | variables)

    return begin


def heard(tmp_path: Path, count: int) -> list[str]:
    """Lines of the server that notes what it is told, once there are so many."""
    end = time.monotonic() + 60
    while True:
        lines = (tmp_path / "heard").read_text().splitlines() if (tmp_path / "heard").exists() else []
        if len(lines) >= count:
            return lines
        assert time.monotonic() < end, f"heard {lines}"
        time.sleep(0.02)


@pytest.mark.parametrize(("ends", "status"), [("exit(0)", 0), ("exit(3)", 3), ("kill(os.getpid(), 9)", 137)])
def test_it_ends_as_the_server_ends(begin, ends: str, status: int) -> None:
    assert begin(f"import os; from sys import exit; from os import kill; {ends}").wait(60) == status


def test_the_first_signal_asks_and_the_second_insists(begin, tmp_path: Path) -> None:
    process = begin(TELL)
    (ready,) = heard(tmp_path, 1)
    assert ready.split()[2] == str(process.pid), "the process id has stayed"
    process.send_signal(signal.SIGINT)
    assert heard(tmp_path, 2)[1:] == ["SIGRTMIN"]
    process.send_signal(signal.SIGTERM)
    assert heard(tmp_path, 3)[1:] == ["SIGRTMIN", "SIGTERM"]
    assert process.wait(60) == 5


def test_what_a_later_server_leaves_is_adopted(begin, tmp_path: Path) -> None:
    process = begin(FORK, NEXT=TELL)
    (ready,) = heard(tmp_path, 1)
    server = int(ready.split()[1])
    end = time.monotonic() + 60
    while f"PPid:\t{process.pid}\n" not in Path(f"/proc/{server}/status").read_text():
        assert time.monotonic() < end, "the server after the next has no parent that waits for it"
        time.sleep(0.02)
    engine = int((tmp_path / "engine").read_text())
    os.kill(engine, signal.SIGKILL)  # it must not be taken for a server
    while Path(f"/proc/{engine}").exists():
        assert time.monotonic() < end, "what was adopted is not reaped"
        time.sleep(0.02)
    assert process.poll() is None
    process.terminate()
    assert heard(tmp_path, 2)[1:] == ["SIGRTMIN"]
    process.terminate()
    assert process.wait(60) == 5


def test_a_stand_in_is_small(begin, tmp_path: Path) -> None:
    process = begin(TELL)
    heard(tmp_path, 1)
    command = Path(f"/proc/{process.pid}/cmdline")
    end = time.monotonic() + 60
    while b"stand_in.py" not in command.read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.5)
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert int(fields["VmRSS"].split()[0]) < 20_000, "kilobytes"
    os.kill(int(heard(tmp_path, 1)[0].split()[1]), signal.SIGTERM)
    assert process.wait(60) == 5
