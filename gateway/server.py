"""``penstock serve``: settings → model files → engine process → HTTP, and back down again in order.

The order is for speed: an engine process is importing torch already (``head_start``), the port is taken first, and the
web framework is imported last, while the engine loads. Requests that come early are told that the engine is starting.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import uvloop
from rich.console import Console

from engine import hub
from engine.errors import EngineError
from engine.messages import EngineInfo, Loading
from gateway.banner import Started, StartupProgress, print_banner
from gateway.head_start import HeadStart
from gateway.settings import ServeSettings
from observability.logging import configure_logging

if TYPE_CHECKING:
    import uvicorn

    from gateway.admission import Keys
    from gateway.chat_template import ChatTemplate
    from gateway.completion.lifecycle import Lifecycle
    from gateway.replicas.fleet import Fleet
    from gateway.state import AppState
    from gateway.tokenizer import Tokenizer
    from observability.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEMO_NAME = "demo"
FAILURE = 1


class StartError(Exception):
    """The server cannot start; one readable line."""


def run(settings: ServeSettings, head_start: HeadStart | None = None) -> int:
    """Serve until a signal says stop. Returns the exit status; a failed start is one line on standard error."""
    configure_logging(settings.log_level, settings.log_format)
    from gateway.admission import KeysFileError
    from gateway.chat_template import ChatTemplateError
    from gateway.replicas.supervisor import EngineGoneError

    server = _Server(settings, head_start)
    try:
        uvloop.run(server.run())
    except (StartError, EngineError, EngineGoneError, KeysFileError, ChatTemplateError) as error:
        Console(stderr=True).print(f"penstock: error: {error}", markup=False, highlight=False, soft_wrap=True)
        return FAILURE
    except asyncio.CancelledError:  # stopped while it was starting
        if server.downloading:
            # The Hub's client cannot be told to stop, and the interpreter would wait for its threads.
            os._exit(128 + server.signal)
        return 128 + server.signal
    return 0


class _Server:
    """One run of the server."""

    def __init__(self, settings: ServeSettings, head_start: HeadStart | None) -> None:
        self._settings = settings
        self._head_start = head_start
        self._began = head_start.began if head_start is not None else time.monotonic()
        self._stages: dict[str, float] = {}
        self._console = Console()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self.signal = signal.SIGINT
        """The one that said stop."""
        self.downloading = False

    async def run(self) -> None:
        listener = _listen(self._settings.host, self._settings.port)
        starting = asyncio.current_task()
        assert starting is not None
        self._handle_signals(starting.cancel)
        with listener, StartupProgress(self._console) as progress:
            folder = await self._resolve(progress.update)
            lifecycle, fleet, http = await self._assemble(folder, progress.update)
            serving = asyncio.create_task(http.serve(sockets=[listener]), name="http")
            try:
                first, *_ = await fleet.wait_ready()
                self._handle_signals(lambda: None)
            except BaseException:
                http.should_exit = True
                await asyncio.gather(serving, fleet.stop(), return_exceptions=True)
                raise
        self._print_banner(listener, first)
        await self._until_stopped(lifecycle, serving)
        await self._shut_down(lifecycle, fleet, http, serving)

    @property
    def _names(self) -> tuple[str, ...]:
        """That clients may use for the model."""
        return tuple(self._settings.served_model_name) or (self._settings.model or DEMO_NAME,)

    def _handle_signals(self, stop: Callable[[], object]) -> None:
        """The first signal ends it in order; a second one does not wait for running streams."""
        loop = asyncio.get_running_loop()

        def on_signal(number: signal.Signals) -> None:
            if self._stop.is_set():
                self._stop_now.set()
                return
            self.signal = number
            self._stop.set()
            stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal, number)

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

    async def _assemble(
        self, folder: Path, report: Callable[[Loading], None]
    ) -> tuple[Lifecycle, Fleet, uvicorn.Server]:
        """Make everything and start the engine processes as early as may be."""
        from prometheus_client import CollectorRegistry

        from gateway.admission import Keys
        from gateway.chat_template import ChatTemplate
        from gateway.completion.lifecycle import Lifecycle
        from gateway.replicas.fleet import Fleet
        from gateway.replicas.launchers import find
        from gateway.replicas.router import Router
        from gateway.tokenizer import Tokenizer
        from gateway.version import VERSION
        from observability.metrics import Metrics

        settings = self._settings
        keys = Keys.load(settings.api_key, settings.api_keys)
        tokenizer = Tokenizer.load(folder)
        template = ChatTemplate.load(folder, tokenizer.special_tokens, settings.chat_template)
        metrics = Metrics(CollectorRegistry(), model=self._names[0], version=VERSION)
        lifecycle = Lifecycle(
            tokenizer, record=metrics.record, router=Router(settings.routing), replicas=settings.replicas
        )
        metrics.watch("requests_queued", lambda: lifecycle.queued_requests)
        metrics.watch("requests_running", lambda: lifecycle.running_requests)
        launcher = find("process")(head_start=self._head_start)
        fleet = Fleet(settings.engine_configs(folder), launcher, lifecycle, on_loading=report)
        fleet.start()
        try:
            await asyncio.sleep(0)  # the engines are told what to serve before the web framework is imported
            http = await self._prepare_http(lifecycle, tokenizer, template, keys, metrics)
        except BaseException:
            await fleet.stop()
            raise
        self._stages["gateway"] = time.monotonic() - self._began
        gc.freeze()  # what was imported stays: looking through it again and again would hold up streams
        gc.enable()
        return lifecycle, fleet, http

    async def _prepare_http(
        self, lifecycle: Lifecycle, tokenizer: Tokenizer, template: ChatTemplate | None, keys: Keys, metrics: Metrics
    ) -> uvicorn.Server:
        from gateway.admission import Admission
        from gateway.completion.formats import choose_reasoning_format, choose_tool_format
        from gateway.prompt import Prompts
        from gateway.protocol.limits import Limits
        from gateway.state import AppState
        from gateway.version import VERSION

        settings = self._settings
        limits = {name: getattr(settings, name) for name in Limits.__dataclass_fields__ if hasattr(settings, name)}
        shown = template.for_tools.source if template is not None else None
        state = AppState(
            model_names=self._names,
            version=VERSION,
            lifecycle=lifecycle,
            prompts=Prompts(tokenizer, template),
            admission=Admission(
                lifecycle,
                max_queue_requests=settings.max_queue_requests,
                max_queue_tokens=settings.max_queue_tokens,
            ),
            render_metrics=metrics.render,
            keys=keys,
            limits=Limits(**limits),
            tool_format=choose_tool_format(settings.tool_call_format, shown),
            reasoning_format=choose_reasoning_format(settings.reasoning_format, shown),
            record=metrics.record,
            failure=lambda: lifecycle.failure,
            cors_origins=settings.cors_origins,
            created=int(time.time()),
        )
        with ThreadPoolExecutor(1, thread_name_prefix="import") as importing:
            return await asyncio.get_running_loop().run_in_executor(importing, _http_server, state)

    def _print_banner(self, listener: socket.socket, info: EngineInfo) -> None:
        settings = self._settings
        stages = {f"engine {stage}": seconds for stage, seconds in info.load_seconds.items()}
        started = Started(
            url=_url(settings.host, listener.getsockname()[1]),
            model=self._names[0],
            needs_key=bool(settings.api_key or settings.api_keys),
            info=info,
            replicas=settings.replicas,
            seconds=time.monotonic() - self._began,
            stages=self._stages | stages,
        )
        print_banner(self._console, started)

    async def _until_stopped(self, lifecycle: Lifecycle, serving: asyncio.Task[None]) -> None:
        """A signal, or the HTTP server ending by itself, which it never should."""
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((stopped, serving), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()

    async def _shut_down(
        self, lifecycle: Lifecycle, fleet: Fleet, http: uvicorn.Server, serving: asyncio.Task[None]
    ) -> None:
        """New requests are refused while running ones end, as long as the drain may last; then all is closed."""
        lifecycle.drain()
        if lifecycle.running_requests:
            logger.info("stopping: waiting up to %g s for running requests", self._settings.drain_timeout)
        waits = [asyncio.create_task(lifecycle.wait_idle()), asyncio.create_task(self._stop_now.wait())]
        await asyncio.wait(waits, timeout=self._settings.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        lifecycle.close()
        http.should_exit = True
        await serving
        await fleet.stop()


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


def _http_server(state: AppState) -> uvicorn.Server:
    """Importing the web framework takes most of the gateway's start; meanwhile the loop serves the engine."""
    from contextlib import AbstractContextManager as ContextManager
    from contextlib import nullcontext

    import uvicorn

    from gateway.app import create_app
    from gateway.http_protocol import BoundedHttpProtocol

    class Server(uvicorn.Server):
        """Signals are handled here, not by uvicorn."""

        def capture_signals(self) -> ContextManager[None]:  # type: ignore[override]
            return nullcontext()

    config = uvicorn.Config(
        create_app(state),
        log_config=None,
        access_log=False,
        http=BoundedHttpProtocol,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return Server(config)


def _listen(host: str, port: int) -> socket.socket:
    """Taken before anything is loaded, so that a mistake shows at once."""
    with ExitStack() as undo:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # until then, SO_REUSEADDR would let another server bind the same port
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        listener.setblocking(False)
        undo.pop_all()
        return listener


def _url(host: str, port: int) -> str:
    """As a browser on this machine would write it."""
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
