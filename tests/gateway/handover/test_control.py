"""The control socket: whose it is, who may use it, and what happens to a request whose author hangs up."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.handover.control import Control, ControlError, Say, candidates, default_path
from gateway.handover.messages import Ask, Failed, Progress, Running, ToCommand, ToServer, Upgrade, encode

RUNNING = Running(pid=7, version="1", url="http://x", arguments=["serve"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: the name of a unix socket must be short."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def answer(request: ToServer, say: Say) -> ToCommand:
    say(Progress("first"))
    return RUNNING


@asynccontextmanager
async def opened(path: Path, answer=answer, *, instead: bool = False, **options):
    control = Control(path, answer, **options)
    await control.open(instead=instead)
    try:
        yield control
    finally:
        await control.close(call_off=True)


async def said(path: Path, request: bytes) -> list[ToCommand]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    if request:
        writer.write(request)
    else:
        writer.write_eof()
    lines = (await asyncio.wait_for(reader.read(), 30)).splitlines()
    writer.close()
    return [msgspec.json.decode(line, type=ToCommand) for line in lines]


async def test_a_request_is_answered_and_nothing_is_left(folder: Path) -> None:
    path = folder / "new" / "8000.sock"
    async with opened(path):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert await said(path, encode(Ask()) + b"\n") == [Progress("first"), RUNNING]
        assert await said(path, b"") == []
        (refused,) = await said(path, b'{"type": "dance"}\n')
        assert isinstance(refused, Failed) and "another release" in refused.message
        assert [each.name for each in path.parent.iterdir()] == ["8000.sock"]
    assert list(path.parent.iterdir()) == []


async def test_another_user_is_not_answered(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(folder / "s", user=os.geteuid() + 1):
        assert await said(folder / "s", encode(Ask()) + b"\n") == [Failed("the server is another user's")]
    assert f"user {os.geteuid()} is not served" in caplog.text


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
async def test_a_folder_that_others_may_enter_is_not_used(folder: Path, mode: int) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(mode)
    with pytest.raises(ControlError, match="mode 0700"):
        await Control(folder / "open" / "s", answer).open()


async def test_a_link_in_the_folders_place_is_not_followed(folder: Path) -> None:
    (folder / "elsewhere").mkdir(mode=0o700)
    (folder / "link").symlink_to(folder / "elsewhere")
    with pytest.raises(ControlError, match="mode 0700"):
        await Control(folder / "link" / "s", answer).open()


async def test_a_path_that_cannot_be_is_one_line(folder: Path) -> None:
    with pytest.raises(ControlError, match="too long"):
        await Control(folder / ("x" * 120), answer).open()
    with pytest.raises(ControlError, match="No such file"):
        await Control(folder / "missing" / "deeper" / "s", answer).open()


async def test_a_socket_that_a_dead_server_left_is_replaced(folder: Path) -> None:
    os.mknod(folder / "s", stat.S_IFSOCK | 0o600)
    async with opened(folder / "s"):
        assert await said(folder / "s", encode(Ask()) + b"\n") == [Progress("first"), RUNNING]


async def test_a_socket_of_a_living_server_is_only_replaced_by_its_follower(folder: Path) -> None:
    path = folder / "s"
    follower = msgspec.structs.replace(RUNNING, pid=8)

    async def answer_of_follower(request: ToServer, say: Say) -> ToCommand:
        return follower

    async with opened(path) as first:
        with pytest.raises(ControlError, match="another server"):
            await Control(path, answer).open()
        async with opened(path, answer_of_follower, instead=True):
            assert await said(path, encode(Ask()) + b"\n") == [follower]
            await first.close(call_off=True)
            assert await said(path, encode(Ask()) + b"\n") == [follower], "its place is not its own any more"
        assert not path.exists()


async def test_a_place_that_a_follower_took_and_left_is_taken_back(folder: Path) -> None:
    path = folder / "s"
    async with opened(path) as first:
        await first.reclaim()  # nothing has happened
        for follower_ends_in_order in (True, False):
            async with opened(path, instead=True) as follower:
                with pytest.raises(ControlError, match="another server"):
                    await first.reclaim()
                if not follower_ends_in_order:
                    follower._server.close()  # type: ignore[union-attr]
                    follower._server = None
            assert path.exists() != follower_ends_in_order
            await first.reclaim()
            assert await said(path, encode(Ask()) + b"\n") == [Progress("first"), RUNNING]
    assert not path.exists()


@pytest.mark.parametrize("who", ["the command", "the server"])
async def test_what_is_not_done_is_called_off(folder: Path, who: str) -> None:
    begun, called_off = asyncio.Event(), asyncio.Event()

    async def never(request: ToServer, say: Say) -> ToCommand:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            called_off.set()
        raise AssertionError

    async with opened(folder / "s", never) as control:
        reader, writer = await asyncio.open_unix_connection(str(folder / "s"))
        writer.write(encode(Upgrade(command=["x"])) + b"\n")
        await begun.wait()
        if who == "the command":
            writer.close()
        else:
            await control.close(call_off=True)
            assert await reader.read() == b""
            writer.close()
        await asyncio.wait_for(called_off.wait(), 30)


async def test_the_last_message_reaches_the_command(folder: Path) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(request: ToServer, say: Say) -> ToCommand:
        begun.set()
        await go.wait()
        return RUNNING

    async with opened(folder / "s", slow) as control:
        talk = asyncio.create_task(said(folder / "s", encode(Ask()) + b"\n"))
        await begun.wait()
        asyncio.get_running_loop().call_later(0.1, go.set)
        await control.close(call_off=False)
        assert await talk == [RUNNING]


def test_where_a_server_is_looked_for(folder: Path) -> None:
    own = Path(f"/tmp/penstock-{os.geteuid()}/8000.sock")
    assert candidates(8000, {}) == [own] == [default_path(8000, {})]
    runtime = {"XDG_RUNTIME_DIR": str(folder)}
    assert candidates(8000, runtime) == [folder / "penstock" / "8000.sock", own]
    assert default_path(8000, runtime) == folder / "penstock" / "8000.sock"
    assert candidates(8000, {"XDG_RUNTIME_DIR": str(folder / "missing")}) == [own]
