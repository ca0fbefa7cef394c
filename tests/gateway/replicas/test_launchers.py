from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from engine.config import EngineConfig
from gateway.head_start import HeadStart
from gateway.replicas.launchers import Launcher, available, find
from gateway.replicas.launchers.process import ChildProcess, ProcessLauncher

ROOT = Path(__file__).parents[3]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


PRINT = "import sys, json; launch = json.loads(sys.stdin.readline()); print("


async def said(launcher: ProcessLauncher, config: EngineConfig, capfd: pytest.CaptureFixture[str]) -> str:
    process = await launcher.launch(config, endpoint="ipc:///nowhere", epoch=4)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    return capfd.readouterr().err


async def test_the_child_is_told_its_launch_and_its_output_goes_to_standard_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, "-c", PRINT + "launch['config']['model'], launch['endpoint'], launch['epoch'])"]
    assert await said(ProcessLauncher(command), EngineConfig(model="m\nn"), capfd) == "m\nn ipc:///nowhere 4\n"


async def test_only_the_first_engine_has_a_head_start() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.stdin.read()"]
    head_start = HeadStart(command)
    launcher = ProcessLauncher(command, head_start=head_start)
    assert head_start._spawned is not None
    early = head_start._spawned.process.pid
    engines = [await launcher.launch(EngineConfig(model="m"), endpoint="", epoch=epoch) for epoch in (1, 2)]
    assert engines[0].pid == early != engines[1].pid
    for one in engines:
        one.close_input()
    assert [await asyncio.wait_for(one.wait(), 20) for one in engines] == [0, 0]


async def test_a_head_start_that_died_is_no_loss() -> None:
    head_start = HeadStart([sys.executable, "-c", ""])
    assert head_start._spawned is not None
    head_start._spawned.process.communicate(timeout=20)
    command = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(5)"]
    launcher = ProcessLauncher(command, head_start=head_start)
    process = await launcher.launch(EngineConfig(model="m"), endpoint="", epoch=1)
    assert await asyncio.wait_for(process.wait(), 20) == 5


async def test_the_child_finds_our_packages_from_any_folder_and_no_shadow_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "engine.py").write_text("print('shadow')")
    (tmp_path / "msgspec.py").write_text("print('shadow')")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-P", "-c", "import engine.config; print(engine.__file__)"]
    assert await said(ProcessLauncher(command), EngineConfig(model="m"), capfd) == f"{ROOT}/engine/__init__.py\n"


async def test_the_engine_itself_is_not_shadowed_by_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("import sys; sys.exit(42)")
    monkeypatch.chdir(tmp_path)
    process = await ProcessLauncher().launch(EngineConfig(model="/nowhere"), endpoint="ipc:///nowhere", epoch=1)
    process.close_input()
    assert await asyncio.wait_for(process.wait(), 60) != 42


async def test_end_of_input_ends_a_child_that_waits_for_it() -> None:
    process = await ProcessLauncher([sys.executable, "-c", "import sys; sys.stdin.read()"]).launch(
        EngineConfig(model="m"), endpoint="", epoch=1
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(process.wait()), 0.2)
    process.close_input()
    assert await asyncio.wait_for(process.wait(), 20) == 0
    process.kill()
    process.dump()


async def test_ctrl_c_at_the_terminal_does_not_reach_the_child() -> None:
    process = await ProcessLauncher([sys.executable, "-c", "import sys; sys.stdin.read()"]).launch(
        EngineConfig(model="m"), endpoint="", epoch=1
    )
    assert os.getpgid(process.pid) != os.getpgid(0)
    process.kill()
    assert await process.wait() == -9


async def test_a_command_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError):
        await ProcessLauncher(["/nowhere/python"]).launch(EngineConfig(model="m"), endpoint="", epoch=1)


async def test_what_a_dead_engine_was_at_is_known() -> None:
    program = """if True:
        import json, os, signal, sys
        import numpy
        from engine.flight_record import FlightRecord
        record = FlightRecord(json.loads(sys.stdin.readline())["record"])
        record.write(("a:0", "b:1"), numpy.array([7, 9], numpy.int32))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    launcher = ProcessLauncher([sys.executable, "-P", "-c", program])
    for _ in range(2):
        process = await launcher.launch(EngineConfig(model="m"), endpoint="", epoch=1)
        assert process.executing() is None, "not while it is alive"
        assert await asyncio.wait_for(process.wait(), 20) == -9
        assert process.executing() == {"a:0": (7,), "b:1": (9,)}


async def test_no_descriptor_is_left_of_a_dead_engine() -> None:
    launcher = ProcessLauncher([sys.executable, "-c", ""])

    async def run() -> int:
        process = await launcher.launch(EngineConfig(model="m"), endpoint="", epoch=1)
        await asyncio.wait_for(process.wait(), 20)
        return descriptors()

    before = await run()
    assert [await run() for _ in range(3)] == [before] * 3


async def test_a_stopped_process_is_seen_from_outside() -> None:
    process = await ProcessLauncher([sys.executable, "-c", "import sys; sys.stdin.read()"]).launch(
        EngineConfig(model="m"), endpoint="", epoch=1
    )
    assert process.look().startswith(f"thread {process.pid} (")
    os.kill(process.pid, signal.SIGSTOP)
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert process.look().startswith("it is stopped by a signal and cannot write its own stacks; thread")
    process.kill()
    await process.wait()
    assert process.look() == "nothing is known of it"


def test_launchers_are_found_by_name() -> None:
    assert "process" in available()
    assert find("process") is ProcessLauncher
    assert issubclass(find("process"), Launcher)
    assert ChildProcess not in [find(name) for name in available()]
    with pytest.raises(ValueError, match="process"):
        find("teleport")
