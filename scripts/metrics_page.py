"""``docs/metrics.md``, from the declared table of metrics."""

from __future__ import annotations

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
_COST = """\
`python -m benchmarks.metrics_cost` measures it beside the steps of the model that it is given. Recording happens in
the gateway's process, not between two steps.
"""


def metrics_page() -> str:
    """Every metric, as the table declares it."""
    rows = [(_name(row), row.kind, _labels(row), row.help, _fed_by(row)) for row in METRICS]
    buckets = [(_name(row), " ".join(f"{bound:g}" for bound in row.buckets)) for row in METRICS if row.buckets]
    protocol = [(what, f"`{PREFIX}{ours}`", f"`{vllm_names.PREFIX}{theirs}`") for what, ours, theirs in _PROTOCOL]
    names = [(f"`{vllm_names.PREFIX}{theirs}`", f"`{PREFIX}{ours}`") for theirs, ours in vllm_names.NAMES.items()]
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
            "## What recording costs\n",
            _COST,
            "## Buckets\n",
            table(("Histogram", "Upper bounds"), buckets),
        ]
    )


def _name(row: Metric) -> str:
    return f"`{PREFIX}{row.name}`"


def _labels(row: Metric) -> str:
    return " ".join(f"`{label}`" for label in row.labels)


def _fed_by(row: Metric) -> str:
    if not row.fed_by:
        return "read when scraped"
    records = ", ".join(record.__name__ for record in row.fed_by)
    return f"`{records}.{row.field}`" if row.field else f"each `{records}`"
