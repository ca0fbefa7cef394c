"""The orderly end of a server: who may still speak, for how long, and in which order things close."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from gateway.handover.stand_in import STOP

if TYPE_CHECKING:
    from gateway.completion.lifecycle import Lifecycle
    from gateway.completion.streams import Streams
    from gateway.http_server import HttpServer
    from gateway.replicas.fleet import Fleet

logger = logging.getLogger(__name__)

LAST_WORDS = 5.0
"""Seconds for the end of a response to leave, at least, once nothing is computed any more."""
IN_A_HURRY = 1.0
"""The same where a second signal came."""


class Stop:
    """What is known of the server's end. The first signal asks it to end in order, a second one not to wait."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.signal = signal.SIGINT
        """The first one."""
        self.leaving = False
        """Whether clients should connect anew for their next request."""
        self.on_first: Callable[[], object] = lambda: None
        self.on_second: Callable[[], object] = lambda: None

    def listen(self) -> None:
        """To SIGINT, SIGTERM and ``STOP``, from now on, in the running loop."""
        for number in {signal.SIGINT, signal.SIGTERM, STOP}:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self.asked.is_set():
            self.signal = number
            self.leaving = True
            self.asked.set()
            self.on_first()
        elif number != STOP or STOP == signal.SIGTERM:
            self.at_once.set()
            self.on_second()


async def wind_down(lifecycle: Lifecycle, patience: float, at_once: asyncio.Event) -> None:
    """New requests are refused while running ones end; what remains after ``patience`` seconds is told so.

    ``at_once`` ends the waiting.
    """
    lifecycle.drain()
    if lifecycle.running_requests:
        logger.info("stopping: waiting up to %g s for running requests", patience)
    await first_of(lifecycle.wait_idle(), at_once.wait(), asyncio.sleep(patience))
    if remaining := lifecycle.running_requests + lifecycle.queued_requests:
        logger.warning("stopping: %d requests are not done and end with an error", remaining)
    lifecycle.close()


async def end_in_order(
    lifecycle: Lifecycle,
    streams: Streams,
    fleet: Fleet,
    http: HttpServer,
    *,
    patience: float,
    at_once: asyncio.Event,
) -> None:
    """Wind down, let the last bytes of each response leave, and stop the engines."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    await wind_down(lifecycle, patience, at_once)
    await http.end(IN_A_HURRY if at_once.is_set() else max(deadline - clock(), LAST_WORDS), at_once)
    await streams.close()  # whoever follows waits for the journal
    await fleet.stop()


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Until one of these is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
