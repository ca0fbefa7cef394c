"""A stream whose engine is killed in the middle of it, on any machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

FAULTS = Path(__file__).parents[1] / "chaos/faults"
LIMIT = 120.0


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Servers that are started now take a fifth of a second for a step while this file is there."""
    monkeypatch.setenv("PYTHONPATH", f"{FAULTS}:{FAULTS.parents[2]}")
    monkeypatch.setenv("CHAOS_SLOW", str(tmp_path / "slow"))
    return tmp_path / "slow"


@pytest.fixture
def across_a_kill(slow: Path) -> Callable[..., httpx.Headers]:
    """Reads a stream of a server that is started after this, kills the engine once it has begun, and reads on to the
    end; gives the headers of the response. Steps take their time until the engine is killed."""

    def read(server: Any, **headers: str) -> httpx.Headers:
        (engine,) = server.engine_pids()
        body = {"model": "demo", "prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True}
        read = []
        slow.touch()
        url = f"{server.url}/v1/completions"
        with httpx.stream("POST", url, json=body, headers=headers, timeout=LIMIT) as response:
            for line in response.iter_lines():
                read.append(line)
                if slow.exists() and line.startswith("data:"):
                    os.kill(engine, signal.SIGKILL)
                    slow.unlink()
        assert "data: [DONE]" in read and not [line for line in read if '"error"' in line]
        return response.headers

    return read
