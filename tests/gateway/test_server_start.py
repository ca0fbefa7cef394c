"""``penstock serve`` when it cannot start, or is told to stop before it has: one line, the status, nothing left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.listening import StartError, listen

PENSTOCK = str(Path(sys.executable).parent / "penstock")


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Listens, and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(60)
        yield listener


def begin(tmp_path: Path, *args: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PENSTOCK, "serve", *args, "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)} | environment,
    )


def folders(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("penstock-*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_start_and_leaves_nothing(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = begin(tmp_path)
    deadline = time.monotonic() + 30
    while not folders(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors, folders(tmp_path)) == (status, "", [])


def test_ctrl_c_ends_a_download_at_once(tmp_path: Path, silent: socket.socket) -> None:
    hub = {
        "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
        "HF_HUB_ETAG_TIMEOUT": "60",
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
    }
    process = begin(tmp_path, "some/model", HF_HOME=str(tmp_path / "hub"), **hub)
    asking, _ = silent.accept()
    with asking:
        assert asking.recv(1), "the request is there, and waits for its answer"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--max-model-len", "1000000"), "exceeds what the model was made for"),
        (("--kv-cache-memory", "100TiB"), "does not fit into memory: lower --kv-cache-memory"),
    ],
)
def test_what_the_engine_refuses_is_one_line(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    process = begin(tmp_path, *args)
    _, errors = process.communicate(timeout=60)
    (line,) = errors.splitlines()
    assert line.startswith("penstock: error: ") and said in line
    assert (process.returncode, folders(tmp_path)) == (1, [])


def test_a_control_socket_that_cannot_be_is_told_before_there_is_a_model(tmp_path: Path, silent: socket.socket) -> None:
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "hub")}
    process = begin(tmp_path, "some/model", "--control", str(tmp_path / "missing" / "deeper" / "socket"), **hub)
    _, errors = process.communicate(timeout=60)
    assert errors == f"penstock: error: --control: {tmp_path / 'missing' / 'deeper'}: No such file or directory\n"
    assert (process.returncode, folders(tmp_path)) == (1, [])
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent.accept()


def test_two_servers_cannot_take_one_port_while_they_start() -> None:
    first = listen("127.0.0.1", 0)
    with first, pytest.raises(StartError, match="cannot listen"):
        listen("127.0.0.1", first.getsockname()[1])
