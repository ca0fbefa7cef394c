"""Every row of the table is fed, by the record and the field it names, and the text is what Prometheus reads."""

import dataclasses

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from observability import vllm_names
from observability.metrics import PENDING, Metrics
from observability.metrics_table import METRICS, PREFIX
from observability.records import (
    CacheConfig,
    EngineEvent,
    EngineState,
    IgnoredFields,
    InterTokenLatencies,
    Rejection,
    Replay,
    RequestStats,
    StepStats,
)

STEP = StepStats(
    step=1,
    duration=0.02,
    scheduled_tokens=100,
    prompt_tokens=90,
    generated_tokens=10,
    state=EngineState(running=12, waiting=3, blocks_used=25, blocks_total=100),
    preemptions=2,
    prefix_queries=64,
    prefix_hits=48,
    plan_time=0.001,
    compute_time=0.017,
    update_time=0.002,
)
REQUEST = RequestStats(
    tenant="alice",
    finish_reason="stop",
    prompt_tokens=30,
    cached_tokens=16,
    generated_tokens=40,
    queue_time=0.003,
    prefill_time=0.02,
    time_to_first_token=0.05,
    time_per_output_token=0.01,
    decode_time=0.35,
    longest_gap=0.03,
    end_to_end=0.4,
    choices=2,
    max_tokens=64,
    longest_choice=25,
)
TRACE = "0af7651916cd43dd8448eb211c80319c"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), model="demo", version="1.2.3")


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render()[0].decode())
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "model"))): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[PREFIX + name, tuple(sorted(labels.items()))]


def test_a_step_feeds_histograms_counters_and_gauges(metrics: Metrics) -> None:
    metrics.record(STEP, replica="3")
    metrics.record(STEP, replica="3")
    metrics.record(STEP.state, replica="3")
    expected = {
        "step_duration_seconds_sum": 0.04,
        "step_tokens_count": 2,
        "step_tokens_sum": 200,
        "prompt_tokens_total": 180,
        "generated_tokens_total": 20,
        "prefix_cache_queries_total": 128,
        "prefix_cache_hits_total": 96,
        "preemptions_total": 4,
        "sequences_running": 12,
        "sequences_waiting": 3,
        "kv_cache_usage_ratio": 0.25,
        "step_plan_seconds_total": 0.002,
        "step_compute_seconds_total": 0.034,
        "step_update_seconds_total": 0.004,
    }
    assert {name: value(metrics, name, replica="3") for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, PENDING - 1, PENDING, PENDING + 1, 3 * PENDING])
def test_however_many_records_wait_each_counts_once_and_the_last_stands(metrics: Metrics, count: int) -> None:
    for number in range(count):
        metrics.record(STEP, replica="1")
        metrics.record(msgspec.structs.replace(STEP.state, running=number), replica="1")
        metrics.record(InterTokenLatencies(values=[0.02, 0.03]))
    for _ in range(2):  # looking changes nothing
        assert value(metrics, "generated_tokens_total", replica="1") == 10 * count
        assert value(metrics, "step_duration_seconds_count", replica="1") == count
        assert value(metrics, "sequences_running", replica="1") == count - 1
        assert value(metrics, "inter_token_latency_seconds_count") == 2 * count


def test_a_request_feeds_its_histograms_once(metrics: Metrics) -> None:
    metrics.record(REQUEST)
    sums = {
        "time_to_first_token_seconds": 0.05,
        "time_per_output_token_seconds": 0.01,
        "request_duration_seconds": 0.4,
        "request_queue_time_seconds": 0.003,
        "request_prefill_time_seconds": 0.02,
        "request_prompt_tokens": 30,
        "request_generated_tokens": 40,
        "request_decode_time_seconds": 0.35,
        "request_inference_time_seconds": 0.37,
        "request_longest_choice_tokens": 25,
        "request_choices": 2,
        "request_max_tokens": 64,
    }
    for name, total in sums.items():
        assert value(metrics, f"{name}_sum") == pytest.approx(total)
        assert value(metrics, f"{name}_count") == 1
    assert value(metrics, "requests_total", tenant="alice", finish_reason="stop") == 1
    assert value(metrics, "cached_prompt_tokens_total", tenant="alice") == 16
    assert value(metrics, "tenant_prompt_tokens_total", tenant="alice") == 30
    assert value(metrics, "tenant_generated_tokens_total", tenant="alice") == 40
    assert not [name for name, _ in samples(metrics) if name.startswith(PREFIX + "errors")]


def test_a_request_that_never_ran_leaves_the_latency_histograms_alone(metrics: Metrics) -> None:
    failed = RequestStats(
        tenant="bob",
        finish_reason="error",
        error_type="internal",
        prompt_tokens=5,
        cached_tokens=0,
        generated_tokens=0,
        end_to_end=1.0,
    )
    metrics.record(CacheConfig(block_size=16, num_blocks=10))
    metrics.record(failed)
    assert value(metrics, "time_to_first_token_seconds_count") == 0
    assert value(metrics, "request_duration_seconds_count") == 1
    assert value(metrics, "errors_total", tenant="bob", error_type="internal") == 1
    assert value(metrics, "requests_total", tenant="bob", finish_reason="error") == 1


def test_each_inter_token_latency_is_observed_and_lies_in_its_bucket(metrics: Metrics) -> None:
    metrics.record(InterTokenLatencies(values=[0.0004, 0.02, 0.021]))
    assert value(metrics, "inter_token_latency_seconds_count") == 3
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.001") == 1
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.02") == 2


def test_a_rejection_counts_by_reason_and_by_error_type(metrics: Metrics) -> None:
    metrics.record(Rejection(tenant="alice", error_type="overload", reason="queue_full"))
    assert value(metrics, "rejections_total", tenant="alice", reason="queue_full") == 1
    assert value(metrics, "errors_total", tenant="alice", error_type="overload") == 1


def test_restarts_count_from_the_second_incarnation(metrics: Metrics) -> None:
    metrics.record(EngineEvent(kind="up", epoch=1))
    assert value(metrics, "engine_restarts_total", replica="0") == 0
    metrics.record(EngineEvent(kind="lost", epoch=1, cause="signal", message="killed"))
    assert value(metrics, "engine_up", replica="0") == 0
    metrics.record(EngineEvent(kind="up", epoch=2))
    assert value(metrics, "engine_up", replica="0") == 1
    assert value(metrics, "engine_restarts_total", replica="0") == 1
    metrics.record(Replay())
    assert value(metrics, "replays_total", replica="0") == 1


def test_a_new_cache_replaces_the_old_one_of_its_replica_alone(metrics: Metrics) -> None:
    for replica, blocks in (("0", 10), ("1", 10), ("0", 12), ("0", 10), ("0", 12)):
        metrics.record(CacheConfig(block_size=16, num_blocks=blocks), replica=replica)
    infos = {labels for name, labels in samples(metrics) if name == PREFIX + "cache_config_info"}
    assert infos == {
        (("block_size", "16"), ("num_gpu_blocks", "12"), ("replica", "0")),
        (("block_size", "16"), ("num_gpu_blocks", "10"), ("replica", "1")),
    }


def test_every_pause_of_a_replayed_request_is_observed(metrics: Metrics) -> None:
    metrics.record(msgspec.structs.replace(REQUEST, pauses=[0.3, 5.0]))
    assert value(metrics, "replay_pause_seconds_count") == 2
    assert value(metrics, "replay_pause_seconds_sum") == pytest.approx(5.3)


def test_events_whose_kinds_are_known_begin_at_zero(metrics: Metrics) -> None:
    metrics.record(CacheConfig(block_size=16, num_blocks=10), replica="1")
    assert value(metrics, "engine_losses_total", replica="1", cause="signal") == 0
    assert value(metrics, "resumes_total", outcome="gone") == 0
    metrics.record(EngineEvent(kind="lost", cause="signal"), replica="1")
    assert value(metrics, "engine_losses_total", replica="1", cause="signal") == 1


def test_a_traced_request_is_an_exemplar_of_its_latencies_and_of_nothing_else(metrics: Metrics) -> None:
    metrics.record(InterTokenLatencies(values=[0.01, 0.03]))
    metrics.record(REQUEST)
    assert " # {" not in metrics.render(OPENMETRICS)[0].decode()
    metrics.record(msgspec.structs.replace(REQUEST, trace_id=TRACE))
    text, content_type = metrics.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    with_exemplar = {
        sample.name: (sample.labels["le"], sample.exemplar.value)
        for family in openmetrics_families(text.decode())
        for sample in family.samples
        if sample.exemplar and sample.exemplar.labels == {"trace_id": TRACE}
    }
    assert with_exemplar == {
        PREFIX + "time_to_first_token_seconds_bucket": ("0.06", 0.05),
        PREFIX + "inter_token_latency_seconds_bucket": ("0.03", 0.03),
        PREFIX + "time_per_output_token_seconds_bucket": ("0.01", 0.01),
        PREFIX + "request_duration_seconds_bucket": ("0.64", 0.4),
        PREFIX + "request_queue_time_seconds_bucket": ("0.005", 0.003),
        PREFIX + "request_prefill_time_seconds_bucket": ("0.02", 0.02),
        PREFIX + "request_decode_time_seconds_bucket": ("0.64", 0.35),
        PREFIX + "request_inference_time_seconds_bucket": ("0.64", 0.37),
    }


@pytest.mark.parametrize("accept", ["", "text/html", "text/plain;version=0.0.4", "application/openmetrics;q=x"])
def test_who_does_not_accept_openmetrics_gets_plain_text(metrics: Metrics, accept: str) -> None:
    metrics.record(msgspec.structs.replace(REQUEST, trace_id=TRACE))
    text, content_type = metrics.render(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert TRACE not in text.decode()


def test_vllm_names_show_the_same_values_only_where_they_are_asked_for(metrics: Metrics) -> None:
    assert vllm_names.PREFIX not in metrics.render()[0].decode()
    compatible = Metrics(CollectorRegistry(), model="demo", version="1", compat="vllm")
    compatible.record(CacheConfig(block_size=16, num_blocks=10), replica="1")
    compatible.record(STEP, replica="1")
    compatible.record(STEP.state, replica="1")
    for tenant in ("alice", "bob"):
        compatible.record(msgspec.structs.replace(REQUEST, tenant=tenant))
    text = compatible.render()[0].decode()
    seen = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def of(name: str, **labels: str) -> float:
        return seen[vllm_names.PREFIX + name, frozenset({"model_name": "demo", **labels}.items())]

    assert of("num_requests_running", engine="1") == 12
    assert of("num_requests_waiting", engine="1") == 3
    assert of("kv_cache_usage_perc", engine="1") == 0.25
    assert of("generation_tokens_total", engine="1") == 10
    assert of("iteration_tokens_total_sum", engine="1") == 100
    assert of("e2e_request_latency_seconds_count", engine="0") == 2
    assert of("request_success_total", engine="0", finished_reason="stop") == 2
    computed, cached = STEP.prompt_tokens, STEP.prefix_hits
    assert computed and cached
    assert of("prompt_tokens_total", engine="1") == computed + cached
    assert of("prompt_tokens_cached_total", engine="1") == cached
    assert of("prompt_tokens_by_source_total", engine="1", source="local_compute") == computed
    assert of("prompt_tokens_by_source_total", engine="1", source="local_cache_hit") == cached
    assert of("num_requests_waiting_by_reason", engine="1", reason="capacity") == 3
    computed_of_requests = 2 * (REQUEST.prompt_tokens - REQUEST.cached_tokens)
    assert of("request_prefill_kv_computed_tokens_sum", engine="0") == computed_of_requests > 0
    assert of("cache_config_info", engine="1", block_size="16", num_gpu_blocks="10") == 1
    names = {name.removeprefix(vllm_names.PREFIX) for name, _ in seen if name.startswith(vllm_names.PREFIX)}
    wanted = (*vllm_names.NAMES, *vllm_names.JOINED)
    assert all(name in names or f"{name}_count" in names for name in wanted)
    assert len(seen) == sum(not line.startswith("#") for line in text.splitlines())  # no series twice
    open_metrics = compatible.render(OPENMETRICS)[0].decode()
    assert [name for name in names if f"\n{vllm_names.PREFIX}{name}{{" not in open_metrics] == []


def test_series_of_a_replica_begin_at_zero(metrics: Metrics) -> None:
    metrics.record(CacheConfig(block_size=16, num_blocks=10), replica="7")
    assert value(metrics, "preemptions_total", replica="7") == 0
    assert value(metrics, "kv_cache_usage_ratio", replica="7") == 0


def test_a_watched_gauge_is_read_when_rendered(metrics: Metrics) -> None:
    queued = [4]
    metrics.watch("requests_queued", lambda: queued[0])
    assert value(metrics, "requests_queued") == 4
    queued[0] = 9
    assert value(metrics, "requests_queued") == 9


def test_ignored_fields_and_build(metrics: Metrics) -> None:
    metrics.record(IgnoredFields(tenant="alice", count=3))
    assert value(metrics, "ignored_fields_total", tenant="alice") == 3
    assert value(metrics, "build_info", version="1.2.3") == 1


def test_two_registries_do_not_share_anything() -> None:
    first, second = (Metrics(CollectorRegistry(), model="demo", version="1") for _ in range(2))
    first.record(STEP)
    assert value(first, "preemptions_total", replica="0") == 2
    assert (PREFIX + "preemptions_total", (("replica", "0"),)) not in samples(second)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_row_names_what_exists_and_follows_the_naming_rules(metric) -> None:
    assert ":" not in metric.name
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    own = [label for label in metric.labels if label not in ("model", "replica")]
    for record in metric.fed_by:
        for name in [*own, *([metric.field] if metric.field else [])]:
            assert name in record.__struct_fields__ or isinstance(getattr(record, name, None), property)
    assert not metric.exemplar or hasattr(RequestStats, metric.exemplar)
    assert not metric.known or len(own) == 1


def test_latency_buckets_hold_the_targets_of_the_alerts() -> None:
    buckets = {metric.name: metric.buckets for metric in METRICS}
    assert buckets["time_to_first_token_seconds"][0] == 0.001 and 160 in buckets["time_to_first_token_seconds"]
    assert buckets["inter_token_latency_seconds"][0] == 0.001 and buckets["inter_token_latency_seconds"][-1] == 20
    assert buckets["request_duration_seconds"][0] == 0.01 and 1310 < buckets["request_duration_seconds"][-1] < 1311


def test_rows_have_names_of_their_own() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(dataclasses.asdict(metric)["help"].endswith(".") for metric in METRICS)
