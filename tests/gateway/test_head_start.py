"""The engine process that is started first of all: taken once, ended if nobody takes it, gone when its parent is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from gateway.head_start import HeadStart, spawn

WAITS = (sys.executable, "-c", "import sys; sys.stdin.read()")


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_the_first_who_asks_takes_it() -> None:
    with HeadStart(WAITS) as head_start:
        spawned = head_start.take()
        assert spawned is not None and head_start.take() is None
    assert alive(spawned.process.pid)
    spawned.discard()
    assert not alive(spawned.process.pid)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, SystemExit])
def test_one_that_nobody_took_is_ended(error: type[BaseException] | None) -> None:
    pids = []

    def leave() -> None:
        with HeadStart(WAITS) as head_start:
            assert head_start._spawned is not None
            pids.append(head_start._spawned.process.pid)
            assert alive(pids[0])
            if error is not None:
                raise error

    if error is None:
        leave()
    else:
        with pytest.raises(error):
            leave()
    assert not alive(pids[0])


def test_one_that_cannot_be_started_is_none() -> None:
    with HeadStart(["/nowhere/python"]) as head_start:
        assert head_start.take() is None


@pytest.mark.parametrize("wait", [0.0, 0.7])
def test_the_engine_ends_in_mid_import_when_its_parent_is_gone(wait: float) -> None:
    spawned = spawn()
    with spawned.process as process:
        time.sleep(wait)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(20) == os.EX_UNAVAILABLE
    os.close(spawned.record)
