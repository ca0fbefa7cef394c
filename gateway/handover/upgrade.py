"""The running server's side of an upgrade: in which order the two servers do what."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.handover.messages import Listener, Load, Prepared, Ready, Serving
from gateway.handover.successor import Successor, UpgradeError

logger = logging.getLogger(__name__)


class Host(Protocol):
    """The running server."""

    @property
    def listener(self) -> socket.socket: ...

    async def make_room(self) -> None:
        """New connections wait; what has begun ends, and with it the engines."""

    async def go_on(self) -> None:
        """Undo ``make_room``, however far it has come."""

    async def stay_reachable(self) -> None:
        """By commands, whatever a successor that is gone had taken over."""

    def hand_over(self, successor: Successor) -> None:
        """The successor accepts connections: accept no more, answer what has begun, and end."""


class Upgrader:
    """One upgrade at a time."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._running = False

    async def run(self, command: Sequence[str], *, in_place: bool, say: Callable[[str], None]) -> int:
        """Hand over to a server that is started by ``command``; gives its process id.

        Until then the old server can go on, and does, should anything fail or this be cancelled. Raises
        ``UpgradeError``.
        """
        if self._running:
            raise UpgradeError("an upgrade is under way already")
        self._running = True
        try:
            successor = Successor(command)
            logger.info("upgrade: process %d is to take over", successor.pid)
            try:
                await self._hand_over(successor, in_place, say)
            except BaseException as error:
                logger.warning("upgrade: called off: %s", error or type(error).__name__)
                await asyncio.shield(self._back_out(successor, in_place))
                if isinstance(error, OSError):
                    raise UpgradeError(f"the new process {successor.pid} cannot be spoken to: {error}") from error
                raise
            successor.let_go()
            self._host.hand_over(successor)
            return successor.pid
        finally:
            self._running = False

    async def _hand_over(self, successor: Successor, in_place: bool, say: Callable[[str], None]) -> None:
        host = self._host
        say(f"process {successor.pid} starts")
        await successor.expect(Prepared)
        if in_place:
            say("new connections wait while running requests end")
            await host.make_room()
        say("its engines load")
        successor.send(Load(port=host.listener.getsockname()[1]))
        await successor.expect(Ready)
        successor.send(Listener(), host.listener)
        await successor.expect(Serving)

    async def _back_out(self, successor: Successor, in_place: bool) -> None:
        await successor.call_off()
        await self._host.stay_reachable()
        if in_place:
            await self._host.go_on()
