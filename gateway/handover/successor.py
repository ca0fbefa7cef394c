"""The server that will follow this one, as the old process sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from typing import TypeVar

from gateway.handover.link import Link
from gateway.handover.messages import Failed, ToPredecessor
from gateway.handover.predecessor import VARIABLE

LAST_CHANCE = 10.0
"""Seconds for one that is called off to end by itself."""

M = TypeVar("M")


class UpgradeError(Exception):
    """There will be no handover; one readable line."""


class Successor:
    """A child process with our environment, working folder, output and session."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raises ``UpgradeError`` where it cannot be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link: Link[ToPredecessor] = Link(ours, ToPredecessor)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | {VARIABLE: str(theirs.fileno())},
                )
            except OSError as error:
                self._link.close()
                raise UpgradeError(f"cannot run {command[0]}: {error.strerror or error}") from None
        self.pid = self._process.pid
        self.send = self._link.send

    async def expect(self, kind: type[M]) -> None:
        """Until it says so. Raises ``UpgradeError``, with its reason, where it fails instead."""
        received = await self._link.receive()
        if received is None:
            status = await self.wait()
            raise UpgradeError(f"the new process {_described(status)} before it was ready; its log may say why")
        message, _ = received
        if isinstance(message, Failed):
            raise UpgradeError(message.message)
        assert isinstance(message, kind), f"{message} where {kind.__name__} was due"

    async def wait(self) -> int:
        """Until it is dead; its exit status, negative for a signal."""
        return await asyncio.to_thread(self._process.wait)

    def let_go(self) -> None:
        """It stands on its own feet from now on."""
        self._link.close()

    async def call_off(self) -> None:
        """End it, and return when it is dead. It takes its engines with it."""
        self._link.close()
        self._process.terminate()
        try:
            await asyncio.shield(asyncio.to_thread(self._process.wait, LAST_CHANCE))
        except subprocess.TimeoutExpired:
            self._process.kill()
            await self.wait()


def _described(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = str(-status)
    with contextlib.suppress(ValueError):
        name = signal.Signals(-status).name
    return f"was ended by {name}"
