"""``docs/metrics.md``, from the declared table of metrics."""

from __future__ import annotations

from collections.abc import Sequence

from observability import vllm_names
from observability.metrics_table import METRICS, PREFIX, Metric
from scripts.page import NOTICE, table

_INTRODUCTION = """\
`GET /metrics`, on the port of the API, answers in OpenMetrics' text format to who accepts it, as Prometheus does, and
else in Prometheus' plain one. Times are in seconds. Each interval is taken from one process's monotonic clock. Beside
these there are the usual `process_…` metrics of the gateway.
"""
_BOUNDS = """\
All labels are bounded: `model` and `replica` by what is served, `tenant` by the keys (`default` where there are none),
`finish_reason`, `error_type`, `outcome`, `cause` and `reason` by the code.
"""
_EXEMPLARS = """\
In OpenMetrics, the histograms of latencies carry exemplars: beside a bucket, the `trace_id` of the last request whose
value fell there. A request has a trace where its client sends a `traceparent` header that says it is recorded, and
where the server [traces](tracing.md) by itself. Prometheus keeps exemplars with `--enable-feature=exemplar-storage`,
and Grafana draws them as points that lead to the trace. The exemplar of `penstock_inter_token_latency_seconds` is a
request's longest gap.
"""
_INFERENCE_GATEWAY = """\
The endpoint picker of Kubernetes' Gateway API Inference Extension reads these of every model server. It can be told
Penstock's names; with `--metrics-compat vllm` its defaults fit.
"""
_PROTOCOL = (
    ("Total queued requests", "sequences_waiting", "num_requests_waiting"),
    ("Total running requests", "sequences_running", "num_requests_running"),
    ("KV cache utilization", "kv_cache_usage_ratio", "kv_cache_usage_perc"),
    ("Block size and number of blocks", "cache_config_info", "cache_config_info"),
    ("LoRA adapters", "lora_info", "lora_requests_info"),
)
_VLLM = """\
`--metrics-compat vllm` serves what vLLM has a name for under that name too, so that dashboards and autoscalers made for
it work unchanged. Labels are `model_name` and `engine`, which is `0` for what the gateway measures, and
`finished_reason`. It is the same series seen twice: nothing more is recorded, and buckets are those below.
"""
_GENERATIVE_AI = """\
OpenTelemetry's conventions for generative AI (in development) name three metrics of a model server. `/metrics` has what
they measure under Penstock's names; a collector's Prometheus receiver scrapes it. `gen_ai.request.model` is the label
`model`, `gen_ai.provider.name` would be `penstock`; chat and plain completions are counted together, so there is no
`gen_ai.operation.name`, as [spans](tracing.md) have it.
"""
_CONVENTIONS = (
    ("gen_ai.server.request.duration", "request_duration_seconds", "The same, failed requests too"),
    ("gen_ai.server.time_to_first_token", "time_to_first_token_seconds", "The same, of every request that had one"),
    (
        "gen_ai.server.time_per_output_token",
        "time_per_output_token_seconds",
        "From the first token to the last, not to the end of the request; of the choice that generated most",
    ),
)
_COST = """\
`python -m benchmarks.metrics_cost` measures it beside the steps of the model that it is given. Recording happens in
the gateway's process, not between two steps. On two cores of an AMD EPYC (AVX2), with the demo model, whose steps are
as short as any:

| streams | a step, ms | recording it, µs | share |
| --- | --- | --- | --- |
| 1 | 0.50 | 2.8 | 0.56% |
| 8 | 1.06 | 3.8 | 0.36% |
| 32 | 2.94 | 6.6 | 0.22% |
| 128 | 11.82 | 22.2 | 0.19% |
"""


def metrics_page() -> str:
    """Every metric, as the table declares it."""
    rows = [(_name(row), row.kind, _labels(row), row.help, _fed_by(row)) for row in METRICS]
    buckets = [(_name(row), " ".join(f"{bound:g}" for bound in row.buckets)) for row in METRICS if row.buckets]
    protocol = [(what, f"`{PREFIX}{ours}`", f"`{vllm_names.PREFIX}{theirs}`") for what, ours, theirs in _PROTOCOL]
    names = [(f"`{vllm_names.PREFIX}{theirs}`", f"`{PREFIX}{ours}`") for theirs, ours in vllm_names.NAMES.items()]
    names += [(f"`{vllm_names.PREFIX}{theirs}`", _parts(parts)) for theirs, parts in vllm_names.JOINED.items()]
    conventions = [(f"`{theirs}`", f"`{PREFIX}{ours}`", how) for theirs, ours, how in _CONVENTIONS]
    return "\n".join(
        [
            NOTICE.format(source="observability/metrics_table.py"),
            "# Metrics\n",
            _INTRODUCTION,
            table(("Metric", "Kind", "Labels", "Meaning", "Fed by"), rows),
            _BOUNDS,
            "## Exemplars\n",
            _EXEMPLARS,
            "## For Kubernetes' inference gateway\n",
            _INFERENCE_GATEWAY,
            table(("It asks for", "Penstock's name", "With `--metrics-compat vllm`"), protocol),
            "## Under vLLM's names\n",
            _VLLM,
            table(("vLLM's name", "The same as"), names),
            "## Under OpenTelemetry's names\n",
            _GENERATIVE_AI,
            table(("OpenTelemetry's name", "Penstock's", "How it compares"), conventions),
            "## What recording costs\n",
            _COST,
            "## Buckets\n",
            table(("Histogram", "Upper bounds"), buckets),
        ]
    )


def _parts(parts: Sequence[vllm_names.Part]) -> str:
    """What one of vLLM's names is made of."""
    labels = [" ".join(f'`{name}="{value}"`' for name, value in each.items()) for _, each in parts]
    ours = [f"`{PREFIX}{own}`" for own, _ in parts]
    if not any(labels):
        return " + ".join(ours)
    return ", ".join(f"{own} as {label}" for own, label in zip(ours, labels, strict=True))


def _name(row: Metric) -> str:
    return f"`{PREFIX}{row.name}`"


def _labels(row: Metric) -> str:
    return " ".join(f"`{label}`" for label in row.labels)


def _fed_by(row: Metric) -> str:
    if not row.fed_by:
        return "read when scraped"
    records = ", ".join(record.__name__ for record in row.fed_by)
    return f"`{records}.{row.field}`" if row.field else f"each `{records}`"
