"""A real server process: ``penstock serve`` as its user starts it, for the tests that need one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import openai
import pytest
from hypothesis import settings as hypothesis_settings

# A busy machine is no reason for a property test to fail.
hypothesis_settings.register_profile("penstock", deadline=None)
hypothesis_settings.load_profile("penstock")

# As for the engine process (gateway/replicas/launchers/process.py), before anything loads the OpenMP runtime.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


LONG_ANSWER: dict[str, Any] = {"n": 16, "max_tokens": 1900, "ignore_eos": True}
"""Fields of a request to the demo model that lasts for seconds on any machine, for tests that cut it short."""


@dataclass
class RunningServer:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    start_seconds: float
    admin_key: ClassVar = "an-admin-key-for-tests"
    """Of the ``server`` that tests share."""

    def client(self, **options: Any) -> openai.OpenAI:
        settings: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 60.0, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **settings)

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        settings: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 120.0, **options}
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", **settings)

    def status(self, path: str) -> int:
        return httpx.get(self.url + path, timeout=60).status_code

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that carry these labels."""
        samples = self._samples(name, labels)
        assert samples, f"no sample of {name} with {labels}"
        return sum(samples)

    def counted(self, name: str, **labels: str) -> float:
        """The same of a counter, which has no samples before it has counted anything."""
        return sum(self._samples(name, labels))

    def _samples(self, name: str, labels: dict[str, str]) -> list[float]:
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=60).text)
        samples = (sample for family in families for sample in family.samples)
        return [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]

    @contextlib.contextmanager
    def cut_short(self) -> Iterator[None]:
        """Inside, a client breaks off its one request, for a ``LONG_ANSWER``: nothing of it may stay held."""
        aborted = self.counted("penstock_requests_total", finish_reason="abort")
        generated = self.counted("penstock_generated_tokens_total")
        yield
        self.wait_idle()
        assert self.counted("penstock_requests_total", finish_reason="abort") == aborted + 1
        wanted = LONG_ANSWER["n"] * LONG_ANSWER["max_tokens"]
        assert self.counted("penstock_generated_tokens_total") - generated < wanted

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Until no sequence runs or waits and no block is in use."""
        end = time.monotonic() + timeout
        while True:
            held = [self.metric(n) for n in ("penstock_requests_running", "penstock_requests_queued")]
            held.append(self.metric("penstock_kv_cache_usage_ratio"))
            if not any(held):
                return
            assert time.monotonic() < end, f"still held after {timeout} s: {held}"
            time.sleep(0.05)

    def wait_for_replicas(self, count: int, timeout: float = 60.0) -> None:
        """Until so many are up: the server is ready once one is."""
        end = time.monotonic() + timeout
        while httpx.get(self.url + "/ready").json()["replicas_up"] != count:
            assert time.monotonic() < end, f"not {count} replicas after {timeout} s"
            time.sleep(0.05)

    def engine_of(self, replica: int) -> int:
        """The process id of a replica's engine, by the name that it has given itself."""
        names = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in self.engine_pids()}
        (pid,) = (pid for pid, name in names.items() if name.startswith(f"penstock-e{replica}."))
        return pid

    def engine_pids(self) -> list[int]:
        """Children of the server that run the engine."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in map(int, Path(path).read_text().split())}
        return [pid for pid, command in commands.items() if b"engine.grammar_trial" not in command]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


StartServer = Callable[..., contextlib.AbstractContextManager[RunningServer]]


@contextlib.contextmanager
def run_server(
    directory: Path, *args: str, port: int | None = None, ready_timeout: float = 180.0
) -> Iterator[RunningServer]:
    """Start ``penstock serve ARGS`` on ``port`` or a free one, wait until it is ready, and stop it at the end."""
    port = port or free_port()
    log = directory / f"server-{port}.log"
    began = time.monotonic()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "penstock"), "serve", *args, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, f"server ended:\n{log.read_text()[-4000:]}"
            assert time.monotonic() - began < ready_timeout, f"not ready:\n{log.read_text()[-4000:]}"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                    break
            time.sleep(0.05)
        yield RunningServer(url, process, log, time.monotonic() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> StartServer:
    directory = tmp_path_factory.mktemp("servers")
    return lambda *args, **options: run_server(directory, *args, **options)


@pytest.fixture
def long_answer() -> dict[str, Any]:
    return dict(LONG_ANSWER)


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Iterator[RunningServer]:
    """The demo model in float32, so that library arithmetic is as close to batch-invariant as it gets."""
    with start_server("--dtype", "float32", "--max-num-seqs", "64", "--admin-key", RunningServer.admin_key) as running:
        yield running
