"""A trace has the right spans under the right parents, by an exporter in memory and by a collector of a real server."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.settings import ServeSettings, SettingsError
from observability.records import AttemptTrace, RequestTrace
from observability.tracing import Tracing, TracingError

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
LIMIT = 120.0
FIRST = AttemptTrace(
    number=1, replica=0, epoch=1, held=0, began_at=10.0, first_token_at=12.0, prefill_time=0.5, ended_at=13.0
)
SECOND = AttemptTrace(
    number=2, replica=1, epoch=3, held=7, began_at=15.0, first_token_at=16.0, prefill_time=0.25, ended_at=18.0
)
REQUEST = RequestTrace(
    traceparent=TRACEPARENT,
    id="chatcmpl-1",
    operation="chat",
    tenant="alice",
    submitted_at=9.5,
    ended_at=18.0,
    error_type=None,
    finish_reasons=["stop"],
    prompt_tokens=3,
    cached_tokens=0,
    generated_tokens=20,
    max_tokens=64,
    temperature=0.5,
    top_p=0.9,
    attempts=[[FIRST, SECOND]],
    prompts=[[1, 2, 3]],
    outputs=[[4, 5]],
)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_a_replayed_request_is_one_trace_with_its_phases(provider, exporter) -> None:
    Tracing(provider, model="demo").emit(REQUEST)
    spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}

    def path(span: ReadableSpan) -> tuple[str, ...]:
        assert span.parent is not None
        above = spans.get(span.parent.span_id)
        return (*(path(above) if above else (f"{span.parent.span_id:016x}",)), span.name)

    request = (SPAN, "chat demo")
    expected = {
        request: 8.5,
        (*request, "attempt"): 3.0,
        (*request, "attempt", "queue"): 1.5,
        (*request, "attempt", "prefill"): 0.5,
        (*request, "attempt", "decode"): 1.0,
        (*request, "replay"): 3.0,
        (*request, "replay", "queue"): 0.75,
        (*request, "replay", "prefill"): 0.25,
        (*request, "replay", "decode"): 2.0,
    }
    assert {path(span): seconds(span) for span in spans.values()} == pytest.approx(expected)
    by_name = {span.name: span for span in spans.values()}
    assert not by_name["attempt"].status.is_ok and by_name["replay"].status.is_unset
    assert by_name["replay"].attributes["penstock.tokens.before"] == 7
    attributes = by_name["chat demo"].attributes
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "demo"
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (3, 20)
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["penstock.replays"] == 1


def test_content_is_there_only_where_it_was_asked_for(provider, exporter) -> None:
    Tracing(provider, model="demo").emit(REQUEST)
    assert not [name for span in exporter.get_finished_spans() for name in span.attributes if "messages" in name]
    exporter.clear()
    Tracing(provider, model="demo", decode=lambda ids: f"<{ids}>").emit(REQUEST)
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "chat demo"]
    (prompt,) = json.loads(span.attributes["gen_ai.input.messages"])
    (answer,) = json.loads(span.attributes["gen_ai.output.messages"])
    assert prompt == {"role": "user", "parts": [{"type": "text", "content": "<[1, 2, 3]>"}]}
    assert answer == {"role": "assistant", "parts": [{"type": "text", "content": "<[4, 5]>"}]}


def test_a_request_that_never_had_a_token_shows_that_it_waited_and_failed(provider, exporter) -> None:
    waited = msgspec.structs.replace(FIRST, first_token_at=None, prefill_time=None)
    failed = msgspec.structs.replace(REQUEST, attempts=[[waited], []], error_type="internal")
    Tracing(provider, model="demo").emit(failed)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"chat demo", "attempt", "queue"}
    assert seconds(spans["queue"]) == pytest.approx(3.0)
    assert not spans["chat demo"].status.is_ok
    assert spans["chat demo"].attributes["error.type"] == "internal"


def test_an_unrecorded_trace_is_not_recorded_here(provider, exporter) -> None:
    span = Tracing(provider, model="demo").http("GET", "/v1/models", {"traceparent": TRACEPARENT[:-1] + "0"})
    assert span.traceparent == "" and span.trace_id == TRACE and span.header.endswith("-00")
    span.end("/v1/models", 200)
    assert not exporter.get_finished_spans()


class Collector(ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []

    def wait_for(self, name: str) -> Any:
        end = time.monotonic() + LIMIT
        while not (found := [span for span in self.spans if span.name == name]):
            assert time.monotonic() < end, [span.name for span in self.spans]
            time.sleep(0.1)
        return found[0]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
        self.server.spans += [span for scope in scopes for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_request_that_is_replayed_after_a_kill_is_one_trace_at_the_collector(
    across_a_kill, start_server, collector
) -> None:
    with start_server("--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}") as server:
        response = across_a_kill(server, traceparent=TRACEPARENT)
        assert response["traceresponse"].startswith(f"00-{TRACE}-")
        http = collector.wait_for("POST /v1/completions")
        request = collector.wait_for("text_completion demo")
        replay = collector.wait_for("replay")
    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    assert http.parent_span_id.hex() == SPAN
    assert request.parent_span_id == http.span_id
    (attempt,) = [span for span in ours if span.name == "attempt"]
    assert [span.parent_span_id for span in (attempt, replay)] == [request.span_id] * 2
    for parent in (attempt, replay):
        assert sorted(span.name for span in ours if span.parent_span_id == parent.span_id) == [
            "decode", "prefill", "queue",
        ]  # fmt: skip
    assert attempt.end_time_unix_nano <= replay.start_time_unix_nano
    keys = {attribute.key for span in ours for attribute in span.attributes}
    assert "gen_ai.usage.output_tokens" in keys and not [key for key in keys if "messages" in key]


@pytest.mark.slow
def test_a_request_that_outlives_its_gateway_goes_on_in_its_trace(
    start_server, collector, slow: Path, tmp_path: Path
) -> None:
    settings = ["--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}", "--journal", str(tmp_path / "journal")]
    body = {"model": "demo", "prompt": "Once", "max_tokens": 100, "ignore_eos": True, "stream": True}
    headers = {"X-Penstock-Resume": "sse", "traceparent": TRACEPARENT}
    slow.touch()
    with start_server(*settings) as server:
        url = httpx.URL(server.url)
        with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers, timeout=LIMIT) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    server.process.kill()
                    break
        server.process.wait(LIMIT)
    slow.unlink()
    first = response.headers["traceresponse"].split("-")[2]
    with start_server(*settings, port=url.port):
        path = f"{url}/v1/streams/{response.headers['x-penstock-stream']}"
        assert httpx.get(path, timeout=LIMIT).text.endswith("data: [DONE]\n\n")
        request = collector.wait_for("text_completion demo")
        replay = collector.wait_for("replay")
        resumed = collector.wait_for("GET /v1/streams/{stream_id}")
    assert {request.trace_id.hex(), replay.trace_id.hex()} == {TRACE}
    assert request.parent_span_id.hex() == first
    assert replay.parent_span_id == request.span_id
    below = [span.name for span in collector.spans if span.parent_span_id == replay.span_id]
    assert sorted(below) == ["decode", "prefill", "queue"]
    (before,) = [each.value.int_value for each in replay.attributes if each.key == "penstock.tokens.before"]
    assert 0 < before < 100
    assert resumed.trace_id.hex() != TRACE
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in resumed.links] == [(TRACE, first)]


def test_a_missing_package_is_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingError, match=r"pip install 'penstock\[tracing\]'"):
        Tracing.connect("http://127.0.0.1:4318", version="1", model="demo")


def test_an_endpoint_without_a_scheme_is_a_readable_mistake() -> None:
    with pytest.raises(SettingsError, match="--otlp-endpoint must be an address such as http://localhost:4318"):
        ServeSettings.load({"otlp_endpoint": "localhost:4318"}, {})
