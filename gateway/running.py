"""A server from the moment it is up until nothing of it is left: it serves, hands over, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from engine.linux import adopt_orphans
from gateway.assembly import Assembly
from gateway.drain import Stop, end_in_order, first_of, wind_down
from gateway.handover.control import Control, ControlError, Say, default_path
from gateway.handover.messages import Failed, Progress, Running, ToCommand, ToServer, Upgrade, Upgraded
from gateway.handover.stand_in import STOP, servers
from gateway.handover.successor import Successor, UpgradeError
from gateway.handover.upgrade import Upgrader
from gateway.listening import StartError
from gateway.replicas.loss import Loss
from gateway.replicas.supervisor import EngineGoneError
from gateway.version import VERSION

logger = logging.getLogger(__name__)

_MADE_ROOM = Loss("exit", "stopped for an upgrade", own_doing=False)
_LOOK = 0.1
"""Seconds between two looks at how many connections are left."""


class RunningServer:
    """``be_reachable``, then ``run``, once each. It is the ``Host`` of upgrades."""

    def __init__(self, parts: Assembly, listener: socket.socket, stop: Stop, *, url: str, drain_timeout: float) -> None:
        self.listener = listener
        self.handed_over = False
        """Whether another server has taken over."""
        self._lifecycle, self._http, self._fleet = parts.lifecycle, parts.http, parts.fleet
        self._streams = parts.streams
        self._new_fleet = parts.new_fleet
        self._stop = stop
        self.url = url
        self._patience = drain_timeout
        self._upgrader = Upgrader(self)
        self._control: Control | None = None
        self._over = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        """Makes room. Once it is there, the engines are ended or will be, whatever becomes of who waits for it."""

    async def be_reachable(self, path: Path | None, *, instead: bool) -> None:
        """By ``penstock upgrade``, at ``path`` or the place for our port; ``instead`` of the server we follow.

        Raises ``StartError`` where ``path`` cannot be. Without one, the server does without.
        """
        place = path or default_path(self.listener.getsockname()[1], os.environ)
        control = Control(place, self._answer)
        try:
            await control.open(instead=instead)
        except ControlError as error:
            if path is not None:
                raise StartError(f"--control: {error}") from None
            logger.warning("penstock upgrade will not reach this server: %s", error)
        else:
            self._control = control

    async def run(self) -> None:
        """Until a signal or a handover ends it, and what it has begun is answered as far as time allows."""
        clock = asyncio.get_running_loop().time
        await first_of(self._stop.asked.wait(), self._http.ended(), self._over.wait())
        deadline = clock() + self._patience
        if self._control is not None:
            await self._control.close(call_off=not self.handed_over)
        if self.handed_over:
            await first_of(self._connections_end(), self._stop.asked.wait(), asyncio.sleep(self._patience))
        self.listener.close()
        patience = max(deadline - clock(), 0.0)
        await end_in_order(
            self._lifecycle, self._streams, self._fleet, self._http, patience=patience, at_once=self._stop.at_once
        )

    # --- what an upgrade asks of its host --------------------------------------------------------------------

    async def make_room(self) -> None:
        self._stop.leaving = True
        self._http.stop_accepting()
        self._http.close_idle()
        await wind_down(self._lifecycle, self._patience, self._stop.at_once)
        self._ending = asyncio.create_task(self._end_engines(), name="making room")
        await asyncio.shield(self._ending)

    async def _end_engines(self) -> None:
        await self._fleet.stop()
        for replica, supervisor in enumerate(self._fleet.supervisors):
            self._lifecycle.lost(replica, supervisor.epoch, _MADE_ROOM)

    async def go_on(self) -> None:
        if self._ending is not None:
            await asyncio.shield(self._ending)
        if self._stop.asked.is_set():
            return
        if self._ending is not None:
            self._ending = None
            self._fleet = self._new_fleet()
            self._fleet.start()
            with suppress(EngineGoneError):
                await first_of(self._fleet.wait_ready(), self._stop.asked.wait())
            if self._stop.asked.is_set():
                return
        self._lifecycle.reopen()
        self._stop.leaving = False
        await self._streams.take_back()
        await self._http.accept(self.listener)

    async def stay_reachable(self) -> None:
        if self._control is not None and not self._stop.asked.is_set():
            try:
                await self._control.reclaim()
            except ControlError as error:
                logger.warning("penstock upgrade will not reach this server any more: %s", error)

    def hand_over(self, successor: Successor) -> None:
        self.handed_over = True
        self._stop.leaving = True
        self._http.stop_accepting()
        # Servers that follow our successor are told what we are told, and reaped, by us or our stand-in.
        adopt_orphans()
        # Whoever started this process speaks to it, and means the server. By the signal's own handler, so that one
        # which comes when this server has all but ended is passed on as well.
        self._stop.on_first = partial(_tell_servers, STOP)
        self._stop.on_second = partial(_tell_servers, signal.SIGTERM)
        for came, tell in ((self._stop.asked, self._stop.on_first), (self._stop.at_once, self._stop.on_second)):
            if came.is_set():
                tell()
        self._over.set()
        logger.info("process %d has taken over; %d requests have still to end here", successor.pid, self._unfinished)

    # --- and the rest ----------------------------------------------------------------------------------------

    @property
    def _unfinished(self) -> int:
        return self._lifecycle.running_requests + self._lifecycle.queued_requests

    async def _answer(self, request: ToServer, say: Say) -> ToCommand:
        if not isinstance(request, Upgrade):
            return Running(pid=os.getpid(), version=VERSION, url=self.url, arguments=sys.argv[1:])
        if self._stop.asked.is_set() or self.handed_over:
            return Failed("the server is ending")
        try:
            pid = await self._upgrader.run(
                request.command, in_place=request.in_place, say=lambda text: say(Progress(text))
            )
        except UpgradeError as error:
            return Failed(str(error))
        return Upgraded(pid=pid, unfinished=self._unfinished)

    async def _connections_end(self) -> None:
        """Requests may still come over those that are open; each is then told to connect anew."""
        await self._lifecycle.wait_idle()
        while True:
            if not self._http.connections and not self._unfinished:
                return
            await asyncio.sleep(_LOOK)


def _tell_servers(number: int) -> None:
    for pid in servers():
        with suppress(ProcessLookupError):
            os.kill(pid, number)
