"""Everything that a server is made of, put together in the order that starts engines soonest.

Imports are inside the functions: engines are told what to serve before most of the gateway is imported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.messages import Loading
from gateway.head_start import HeadStart
from gateway.settings import ServeSettings
from observability.records import RequestTrace

if TYPE_CHECKING:
    from gateway.admission import Admission, Keys
    from gateway.completion.lifecycle import Lifecycle
    from gateway.completion.streams import Streams
    from gateway.http_server import HttpServer
    from gateway.lookout import Lookout
    from gateway.prompt import Prompts
    from gateway.replicas.fleet import Fleet
    from gateway.state import AppState
    from gateway.tokenizer import Tokenizer
    from observability.metrics import Metrics
    from observability.records import Record, Recorder
    from observability.tracing import Tracing

DEMO_NAME = "demo"


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts that are started and stopped; ``http`` has not begun to listen."""

    lifecycle: Lifecycle
    streams: Streams
    fleet: Fleet
    new_fleet: Callable[[], Fleet]
    """Another like it, for the time after it has been stopped."""
    http: HttpServer


def served_names(settings: ServeSettings) -> tuple[str, ...]:
    """Names that clients may use for the model."""
    return tuple(settings.served_model_name) or (settings.model or DEMO_NAME,)


async def assemble(
    settings: ServeSettings,
    folder: Path,
    head_start: HeadStart | None,
    report: Callable[[Loading], None],
    leaving: Callable[[], bool],
    *,
    follows: bool,
) -> Assembly:
    """Make everything, and start the engine processes.

    ``folder`` holds the model; ``report`` hears how it is loaded; ``leaving`` says whether clients should connect anew
    for their next request; ``follows``: another server still has the journal. Raises what a wrong setting or file
    raises, with no process left behind.
    """
    from gateway.admission import Admission, Keys
    from gateway.completion.lifecycle import Lifecycle
    from gateway.lookout import Lookout
    from gateway.replicas.fleet import Fleet
    from gateway.replicas.launchers import find
    from gateway.replicas.router import Router
    from gateway.tokenizer import Tokenizer

    keys = Keys.load(settings.api_key, settings.api_keys)
    tokenizer = Tokenizer.load(folder)
    prompts = _prompts(settings, folder, tokenizer)
    metrics = _metrics(settings)
    tracing = _tracing(settings, tokenizer)
    record = _recorder(metrics, tracing)
    lifecycle = Lifecycle(tokenizer, record=record, router=Router(settings.routing), replicas=settings.replicas)
    admission = Admission(
        lifecycle, max_queue_requests=settings.max_queue_requests, max_queue_tokens=settings.max_queue_tokens
    )
    streams = _streams(settings, folder, lifecycle, tokenizer, admission, metrics)
    if not follows:
        streams.open_journal()
    metrics.watch("streams_held", lambda: len(streams))
    metrics.watch("requests_queued", lambda: lifecycle.queued_requests)
    metrics.watch("requests_running", lambda: lifecycle.running_requests)
    launcher, configs = find("process"), settings.engine_configs(folder)
    standby, lookout = settings.standby, Lookout(lifecycle)
    fleet = Fleet(configs, launcher(head_start=head_start), lookout, standby=standby, on_loading=report)
    fleet.start()
    try:
        await asyncio.sleep(0)  # the engines are told what to serve before the web framework is imported
        state = _app_state(
            settings, folder, lifecycle, streams, prompts, admission, keys, metrics, tracing, leaving, lookout
        )
        with ThreadPoolExecutor(1, thread_name_prefix="import") as importing:
            http = await asyncio.get_running_loop().run_in_executor(importing, _http_server, state)
    except BaseException:
        await fleet.stop()
        raise
    return Assembly(lifecycle, streams, fleet, lambda: Fleet(configs, launcher(), lookout, standby=standby), http)


def _prompts(settings: ServeSettings, folder: Path, tokenizer: Tokenizer) -> Prompts:
    from gateway.chat_template import ChatTemplate
    from gateway.prompt import Prompts

    template = ChatTemplate.load(
        folder,
        tokenizer.special_tokens,
        settings.chat_template,
        max_seconds=settings.template_timeout,
        max_characters=settings.max_rendered_length,
    )
    return Prompts(tokenizer, template)


def _metrics(settings: ServeSettings) -> Metrics:
    from prometheus_client import CollectorRegistry

    from gateway.version import VERSION
    from observability.metrics import Metrics

    model = served_names(settings)[0]
    return Metrics(CollectorRegistry(), model=model, version=VERSION, compat=settings.metrics_compat)


def _tracing(settings: ServeSettings, tokenizer: Tokenizer) -> Tracing | None:
    from gateway.version import VERSION
    from observability.tracing import Tracing

    if settings.otlp_endpoint is None:
        return None
    decode = partial(tokenizer.decode, skip_special_tokens=False) if settings.trace_content else None
    return Tracing.connect(settings.otlp_endpoint, version=VERSION, model=served_names(settings)[0], decode=decode)


def _recorder(metrics: Metrics, tracing: Tracing | None) -> Recorder:
    """Traces go to who makes spans of them, everything else to the metrics."""
    if tracing is None:
        return metrics.record

    def record(record: Record, *, replica: str = "0") -> None:
        if isinstance(record, RequestTrace):
            tracing.emit(record)
        else:
            metrics.record(record, replica=replica)

    return record


def _streams(
    settings: ServeSettings,
    folder: Path,
    lifecycle: Lifecycle,
    tokenizer: Tokenizer,
    admission: Admission,
    metrics: Metrics,
) -> Streams:
    from gateway.completion.durable import DurableJournal
    from gateway.completion.streams import Streams
    from gateway.model_identity import model_identity

    return Streams(
        lifecycle,
        tokenizer,
        grace=settings.resume_grace,
        capacity=settings.resume_buffer,
        journal=DurableJournal(settings.journal, record=metrics.record) if settings.journal else None,
        model=model_identity(folder) if settings.journal else "",
        enter=lambda request: admission.enter_again(request.tenant).leave,
    )


def _app_state(
    settings: ServeSettings,
    folder: Path,
    lifecycle: Lifecycle,
    streams: Streams,
    prompts: Prompts,
    admission: Admission,
    keys: Keys,
    metrics: Metrics,
    tracing: Tracing | None,
    leaving: Callable[[], bool],
    lookout: Lookout,
) -> AppState:
    from gateway.admission import Keys
    from gateway.completion.formats import choose_reasoning_format, choose_tool_format
    from gateway.grammars.trials import Trials
    from gateway.protocol.limits import Limits
    from gateway.state import AppState
    from gateway.version import VERSION

    limits = {name: getattr(settings, name) for name in Limits.__dataclass_fields__}
    template = prompts.template
    shown = template.for_tools.source if template is not None else None
    return AppState(
        model_names=served_names(settings),
        version=VERSION,
        lifecycle=lifecycle,
        streams=streams,
        prompts=prompts,
        trials=Trials(
            folder,
            timeout=settings.grammar_timeout,
            max_states=settings.max_grammar_states,
            memory=settings.grammar_memory,
            most_waiting=settings.max_queue_grammars,
            record=metrics.record,
        ),
        admission=admission,
        render_metrics=metrics.render,
        keys=keys,
        admin_keys=Keys.load(settings.admin_key),
        limits=Limits(**limits),
        tool_format=choose_tool_format(settings.tool_call_format, shown),
        reasoning_format=choose_reasoning_format(settings.reasoning_format, shown),
        tracing=tracing,
        record=metrics.record,
        look=lookout.look,
        failure=lambda: lifecycle.failure,
        leaving=leaving,
        cors_origins=settings.cors_origins,
        created=int(time.time()),
    )


def _http_server(state: AppState) -> HttpServer:
    """Importing the web framework takes most of the gateway's start; meanwhile the loop serves the engine."""
    from gateway.http_server import HttpServer

    return HttpServer(state)
