"""``penstock serve``: settings → model files → engine process → HTTP, and back down again in order.

The order is for speed: an engine process is importing torch already (``head_start``), the port is taken first, and the
web framework is imported last, while the engine loads. Requests that come early are told that the engine is starting.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import uvloop
from rich.console import Console

from engine import hub
from engine.errors import EngineError
from engine.messages import EngineInfo, Loading
from gateway.assembly import Assembly, assemble, served_names
from gateway.banner import Started, StartupProgress, print_banner
from gateway.drain import LAST_WORDS, Stop
from gateway.handover import stand_in
from gateway.handover.control import ControlError, prepare
from gateway.handover.predecessor import Predecessor
from gateway.head_start import HeadStart
from gateway.listening import StartError, listen, url_of
from gateway.running import RunningServer
from gateway.settings import ServeSettings
from observability.logging import configure_logging

T = TypeVar("T")

FAILURE = 1
_HEARD = 0.01
"""Seconds in which the loop surely looks once whether a signal has come."""


def run(settings: ServeSettings, head_start: HeadStart | None = None, predecessor: Predecessor | None = None) -> int:
    """Serve until a signal says stop. Returns the exit status; a failed start is one line on standard error.

    Once another server has taken over, the first of their line does not return: its process stays as their stand-in.
    """
    configure_logging(settings.log_level, settings.log_format)
    from gateway.admission import KeysFileError
    from gateway.chat_template import ChatTemplateError
    from gateway.completion.durable import JournalError
    from gateway.replicas.supervisor import EngineGoneError
    from observability.tracing import TracingError

    server = _Server(settings, head_start, predecessor)
    try:
        handed_over = uvloop.run(server.run())
    except (
        StartError,
        EngineError,
        EngineGoneError,
        JournalError,
        KeysFileError,
        ChatTemplateError,
        TracingError,
    ) as error:
        Console(stderr=True).print(f"penstock: error: {error}", markup=False, highlight=False, soft_wrap=True)
        if predecessor is not None:
            predecessor.fail(str(error))
        return FAILURE
    except asyncio.CancelledError:  # stopped while it was starting
        if server.downloading:
            # The Hub's client cannot be told to stop, and the interpreter would wait for its threads.
            os._exit(128 + server.stop.signal)
        return 128 + server.stop.signal
    if handed_over and predecessor is None:
        stand_in.become()
    return 0


class _Server:
    """One run of the server."""

    def __init__(self, settings: ServeSettings, head_start: HeadStart | None, predecessor: Predecessor | None) -> None:
        self._settings = settings
        self._predecessor = predecessor
        self._head_start = head_start
        self._began = head_start.began if head_start is not None else time.monotonic()
        self._stages: dict[str, float] = {}
        self._console = Console()
        self.stop = Stop()
        self.downloading = False

    async def run(self) -> bool:
        """Until it has ended; whether another server has taken over."""
        running = await self._start()
        await running.run()
        if running.handed_over:
            stand_in.block_signals()  # whoever takes this process's place is told of them,
            await asyncio.sleep(_HEARD)  # and of those that have come the loop tells
        return running.handed_over

    async def _start(self) -> RunningServer:
        """Until every engine is up. A signal cancels it; however it fails, no process is left."""
        own_listener = None if self._predecessor else listen(self._settings.host, self._settings.port)
        if self._settings.control is not None:
            try:  # rather now than when a large model has been loaded
                prepare(self._settings.control, instead=self._predecessor is not None)
            except ControlError as error:
                raise StartError(f"--control: {error}") from None
        starting = asyncio.current_task()
        assert starting is not None
        self.stop.on_first = starting.cancel
        self.stop.listen()
        with StartupProgress(self._console) as progress:
            folder = await self._resolve(progress.update)
            if self._predecessor is not None:
                await self._predecessor.may_load(self._settings.port)
            parts = await assemble(
                self._settings,
                folder,
                self._head_start,
                progress.update,
                lambda: self.stop.leaving,
                follows=self._predecessor is not None,
            )
            self._stages["gateway"] = time.monotonic() - self._began
            gc.freeze()  # what was imported stays: looking through it again and again would hold up streams
            gc.enable()
            try:
                await parts.http.start()
                if own_listener is not None:
                    await parts.http.accept(own_listener)
                first, *_ = await parts.fleet.wait_ready()
                running = await self._take_place(parts, own_listener)
                self.stop.on_first = lambda: None
            except BaseException:
                await asyncio.gather(
                    parts.http.end(LAST_WORDS, self.stop.at_once), parts.fleet.stop(), return_exceptions=True
                )
                raise
        self._print_banner(running.url, first)
        return running

    async def _take_place(self, parts: Assembly, own_listener: socket.socket | None) -> RunningServer:
        """From now on this is the server that commands reach, and clients where another one was before."""
        if self._predecessor is None:
            assert own_listener is not None
            listener = own_listener
        else:
            listener = await self._predecessor.take_listener()
        running = RunningServer(
            parts,
            listener,
            self.stop,
            url=url_of(self._settings.host, listener.getsockname()[1]),
            drain_timeout=self._settings.drain_timeout,
        )
        await running.be_reachable(self._settings.control, instead=self._predecessor is not None)
        if self._predecessor is not None:
            parts.streams.follow()
            await parts.http.accept(listener)
            self._predecessor.serving()
        else:
            parts.streams.ready()
        return running

    async def _resolve(self, report: Callable[[Loading], None]) -> Path:
        """The model's folder; a Hugging Face id is downloaded, in a thread so that a signal still gets through."""
        if self._settings.model is None:
            from engine.demo_model import PATH

            return PATH
        loop = asyncio.get_running_loop()

        def progress(stage: str, done: int, total: int, unit: str) -> None:
            loop.call_soon_threadsafe(report, Loading(stage=stage, done=done, total=total, unit=unit))

        self.downloading = True
        folder = await _in_daemon_thread(
            lambda: hub.resolve(str(self._settings.model), self._settings.revision, progress)
        )
        self.downloading = False
        return folder

    def _print_banner(self, url: str, info: EngineInfo) -> None:
        settings = self._settings
        stages = {f"engine {stage}": seconds for stage, seconds in info.load_seconds.items()}
        started = Started(
            url=url,
            model=served_names(settings)[0],
            needs_key=bool(settings.api_key or settings.api_keys),
            info=info,
            replicas=settings.replicas,
            seconds=time.monotonic() - self._began,
            stages=self._stages | stages,
        )
        print_banner(self._console, started)


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """Like ``asyncio.to_thread``, but neither the loop nor the interpreter waits for the thread at the end."""
    outcome: Future[T] = Future()

    def run() -> None:
        outcome.set_running_or_notify_cancel()
        try:
            outcome.set_result(work())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)
