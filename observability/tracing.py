"""Traces by OpenTelemetry: one from the HTTP request through queue, prefill, decoding and replays.

The part of a request that happens inside is told of when it has ended, as numbers (``RequestTrace``), and becomes spans
then: nothing of OpenTelemetry is on the way of a token. Attributes are OpenTelemetry's conventions for generative AI.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from observability.records import AttemptTrace, RequestTrace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Decode = Callable[[Sequence[int]], str]

PROVIDER = "penstock"
TIMEOUT = 5
"""Seconds that a collector may take to answer; requests never wait for it."""


class TracingError(Exception):
    """Traces cannot be sent; readable by the person at the terminal."""


class Tracing:
    """Where spans are made. Used from the event loop; they are sent by a thread of OpenTelemetry's."""

    def __init__(self, provider: TracerProvider, *, model: str, decode: Decode | None = None) -> None:
        """``model`` is its name for clients. With ``decode``, which turns tokens into text, spans hold content."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("penstock")
        self._propagator = TraceContextTextMapPropagator()
        self._model = model
        self._decode = decode

    @classmethod
    def connect(cls, endpoint: str, *, version: str, model: str, decode: Decode | None = None) -> Self:
        """Send spans to an OTLP collector over HTTP; what is left is sent when the process ends.

        ``endpoint`` is its address without a path. OpenTelemetry's own variables (``OTEL_…``) count. Raises
        ``TracingError`` where the packages are missing.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise TracingError("--otlp-endpoint needs OpenTelemetry: pip install 'penstock[tracing]'") from None
        service = os.environ.get("OTEL_SERVICE_NAME", "penstock")
        provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": version}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider, model=model, decode=decode)

    def http(self, method: str, path: str, headers: Mapping[str, str]) -> HttpSpan:
        """The span of an HTTP request that begins now, as a child of what its ``traceparent`` header says."""
        from opentelemetry.trace import SpanKind

        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path, "url.scheme": "http"},
        )
        return HttpSpan(span, method)

    def emit(self, trace: RequestTrace) -> None:
        """The spans of a request that has just ended."""
        from opentelemetry.trace import SpanKind, StatusCode

        ended = time.time_ns()

        def at(seconds: float) -> int:
            return ended - round((trace.ended_at - seconds) * 1e9)

        span = self._tracer.start_span(
            f"{trace.operation} {self._model}",
            context=self._propagator.extract({"traceparent": trace.traceparent}),
            kind=SpanKind.INTERNAL,
            start_time=at(trace.submitted_at),
            attributes=self._attributes(trace),
        )
        if trace.error_type is not None:
            span.set_status(StatusCode.ERROR, trace.error_type)
        for choice, attempts in enumerate(trace.attempts):
            for attempt in attempts:
                self._attempt(attempt, choice, _within(span), at, last=attempt is attempts[-1])
        span.end(ended)

    def _attempt(
        self, attempt: AttemptTrace, choice: int, parent: Context, at: Callable[[float], int], *, last: bool
    ) -> None:
        from opentelemetry.trace import StatusCode

        span = self._tracer.start_span(
            "replay" if attempt.is_replay else "attempt",
            context=parent,
            start_time=at(attempt.began_at),
            attributes={
                "penstock.choice": choice,
                "penstock.attempt": attempt.number,
                "penstock.replica": attempt.replica,
                "penstock.engine.epoch": attempt.epoch,
                "penstock.tokens.before": attempt.held,
            },
        )
        if not last:
            span.set_status(StatusCode.ERROR, "the engine was lost, or the attempt was given up")
        for name, begin, end in _phases(attempt):
            self._tracer.start_span(name, context=_within(span), start_time=at(begin)).end(at(end))
        span.end(at(attempt.ended_at))

    def _attributes(self, trace: RequestTrace) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": trace.operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.id": trace.id,
            "gen_ai.request.choice.count": len(trace.attempts),
            "gen_ai.request.max_tokens": trace.max_tokens,
            "gen_ai.request.temperature": trace.temperature,
            "gen_ai.request.top_p": trace.top_p,
            "gen_ai.usage.input_tokens": trace.prompt_tokens,
            "gen_ai.usage.output_tokens": trace.generated_tokens,
            "gen_ai.response.finish_reasons": trace.finish_reasons,
            "penstock.tenant": trace.tenant,
            "penstock.cached_tokens": trace.cached_tokens,
            "penstock.replays": sum(attempt.is_replay for attempts in trace.attempts for attempt in attempts),
        }
        if trace.error_type is not None:
            attributes["error.type"] = trace.error_type
        if self._decode is not None:
            attributes |= {
                "gen_ai.input.messages": self._messages("user", trace.prompts),
                "gen_ai.output.messages": self._messages("assistant", trace.outputs),
            }
        return attributes

    def _messages(self, role: str, texts: Sequence[Sequence[int]]) -> str:
        assert self._decode is not None
        messages = [{"role": role, "parts": [{"type": "text", "content": self._decode(tokens)}]} for tokens in texts]
        return json.dumps(messages, ensure_ascii=False)


class HttpSpan:
    """One HTTP request, until ``end``."""

    def __init__(self, span: Span, method: str) -> None:
        from opentelemetry.trace import format_span_id, format_trace_id

        self._span = span
        self._method = method
        context = span.get_span_context()
        self.trace_id = format_trace_id(context.trace_id)
        flags = int(context.trace_flags)
        self.header = f"00-{self.trace_id}-{format_span_id(context.span_id)}-{flags:02x}"
        """For the response, as the header ``traceresponse``."""
        self.traceparent = self.header if context.trace_flags.sampled else ""
        """For what is done on its behalf; empty where the trace is not recorded."""

    def end(self, route: str, status: int, goes_on: str = "") -> None:
        """It was answered with this status, or with none (0).

        ``route`` is the path as a pattern, where known; ``goes_on`` the ``traceparent`` of a request whose answer was
        read on here, which the span links to.
        """
        from opentelemetry.trace import StatusCode, get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if goes_on:
            other = TraceContextTextMapPropagator().extract({"traceparent": goes_on})
            self._span.add_link(get_current_span(other).get_span_context())
        if route:
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute("http.route", route)
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status >= 500 or not status:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _within(span: Span) -> Context:
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span)


def _phases(attempt: AttemptTrace) -> list[tuple[str, float, float]]:
    """(name, begin, end). The engine's clock measures how long its prefill took; when, the gateway's."""
    first = attempt.first_token_at
    if first is None or attempt.prefill_time is None:
        return [("queue", attempt.began_at, attempt.ended_at)]
    started = max(first - attempt.prefill_time, attempt.began_at)
    return [("queue", attempt.began_at, started), ("prefill", started, first), ("decode", first, attempt.ended_at)]
