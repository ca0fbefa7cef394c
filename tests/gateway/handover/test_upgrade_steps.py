"""Who does what when, with a real child process that plays the new server by a script."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.handover.successor import Successor, UpgradeError
from gateway.handover.upgrade import Upgrader

ROOT = Path(__file__).parents[3]

NEW = """
import asyncio, os, socket, sys, time
sys.path.insert(0, {root!r})
from gateway.handover.predecessor import Predecessor
from gateway.listening import StartError
follows = Predecessor.inherited(os.environ)
async def main():
    {body}
try:
    asyncio.run(main())
except StartError as error:
    follows.fail(str(error))
    sys.exit(1)
"""
SERVES = """
    await follows.may_load(0)
    listener = await follows.take_listener()
    follows.serving()
    listener.setblocking(True)
    connection, _ = listener.accept()
    connection.sendall(b'new')
"""


class OldServer:
    """The host of an upgrade; notes what is asked of it."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.asked: list[str] = []
        self.successor: Successor | None = None

    async def make_room(self) -> None:
        self.asked.append("make room")

    async def go_on(self) -> None:
        self.asked.append("go on")

    async def stay_reachable(self) -> None:
        self.asked.append("stay reachable")

    def hand_over(self, successor: Successor) -> None:
        self.asked.append("hand over")
        self.successor = successor


@pytest.fixture
def old() -> Iterator[OldServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield OldServer(listener)


def new(body: str) -> list[str]:
    return [sys.executable, "-c", NEW.format(root=str(ROOT), body=body)]


@pytest.mark.parametrize("in_place", [False, True])
async def test_the_listening_socket_itself_is_handed_over(old: OldServer, in_place: bool) -> None:
    said: list[str] = []
    pid = await Upgrader(old).run(new(SERVES), in_place=in_place, say=said.append)
    assert old.asked == (["make room"] if in_place else []) + ["hand over"]
    assert said[0] == f"process {pid} starts" and said[-1] == "its engines load"
    address = old.listener.getsockname()
    old.listener.close()
    reader, writer = await asyncio.open_connection(*address)
    assert await asyncio.wait_for(reader.read(), 60) == b"new"
    writer.close()
    assert old.successor is not None and await old.successor.wait() == 0


@pytest.mark.parametrize(
    ("body", "in_place", "said", "asked"),
    [
        ("follows.fail('no such model')", False, "^no such model$", []),
        ("sys.exit(3)", True, "ended with status 3 before it was ready", ["go on"]),
        ("os.kill(os.getpid(), 9)", False, "was ended by SIGKILL", []),
        ("await follows.may_load({port} + 1)", True, "an upgrade keeps the port", ["make room", "go on"]),
        ("await follows.may_load(0); follows.fail('no memory')", True, "^no memory$", ["make room", "go on"]),
        ("await follows.may_load(0); await follows.take_listener(); sys.exit(4)", False, "status 4", []),
    ],
)
async def test_a_new_server_that_fails_changes_nothing(
    old: OldServer, body: str, in_place: bool, said: str, asked: list[str]
) -> None:
    body = body.replace("{port}", str(old.listener.getsockname()[1]))
    upgrader = Upgrader(old)
    with pytest.raises(UpgradeError, match=said):
        await upgrader.run(new(body), in_place=in_place, say=lambda _: None)
    at = len(asked) - asked.count("go on")
    assert old.asked == [*asked[:at], "stay reachable", *asked[at:]]
    with pytest.raises(UpgradeError, match="cannot run /nowhere: No such file"):
        await upgrader.run(["/nowhere"], in_place=False, say=lambda _: None)


async def test_one_at_a_time_and_called_off_by_whoever_asked(old: OldServer) -> None:
    upgrader = Upgrader(old)
    loading = asyncio.Event()
    pids: list[int] = []

    def say(text: str) -> None:
        if text.endswith("starts"):
            pids.append(int(text.split()[1]))
        if text == "its engines load":
            loading.set()

    first = asyncio.create_task(upgrader.run(new("await follows.may_load(0); time.sleep(600)"), in_place=True, say=say))
    await asyncio.wait_for(loading.wait(), 60)
    with pytest.raises(UpgradeError, match="under way already"):
        await upgrader.run(new(SERVES), in_place=False, say=say)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert old.asked == ["make room", "stay reachable", "go on"]
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
