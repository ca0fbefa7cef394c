"""What a benchmark starts, it can hold, measure and end."""

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import processes

FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("begun", flush=True)
time.sleep(60)
"""
BUSY = "while True: pass"


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 20
    while text not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_family_is_ended_though_it_is_suspended_and_a_member_has_left_the_group(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with processes.run([sys.executable, "-c", FAMILY], log) as process:
        wait_for(log, "begun")
        family = processes.tree(process.pid)
        assert len(family) == 2
        memory = processes.memory(process.pid)
        assert memory["peak"] >= memory["resident"] > 2**21
        processes.signal_tree(process.pid, signal.SIGSTOP)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
    assert process.returncode is not None


def test_a_suspended_tree_uses_no_time(tmp_path: Path) -> None:
    with processes.run([sys.executable, "-c", BUSY], tmp_path / "log") as process:
        end = time.monotonic() + 20
        while processes.cpu_seconds(process.pid) < 0.1:
            assert time.monotonic() < end
            time.sleep(0.01)
        processes.signal_tree(process.pid, signal.SIGSTOP)
        time.sleep(0.05)
        before = processes.cpu_seconds(process.pid)
        time.sleep(0.3)
        assert processes.cpu_seconds(process.pid) == before
        assert processes.machine_busy_seconds() > before


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        processes.run([sys.executable, "-c", "print('no such model'); raise SystemExit(3)"], log) as process,
        pytest.raises(processes.StartError, match=r"(?s)status 3.*no such model"),
    ):
        processes.wait_until_ready(process, "http://127.0.0.1:9/health", log, 20)


def test_a_server_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        processes.run([sys.executable, "-c", "import time; time.sleep(60)"], log) as process,
        pytest.raises(processes.StartError, match="not ready after"),
    ):
        processes.wait_until_ready(process, "http://127.0.0.1:9/health", log, 0.1)
