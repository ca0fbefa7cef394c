"""vLLM's names for what Penstock measures (``--metrics-compat vllm``): the same series, seen under another name.

Dashboards, autoscalers and inference gateways made for vLLM work unchanged. Nothing is recorded twice, and the buckets
are our own. Names as in vLLM 0.33; what it measures of features that Penstock does not have is not served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from prometheus_client.metrics_core import Metric as Samples

from observability.series import Family

PREFIX = "vllm:"

NAMES: Mapping[str, str] = {
    "num_requests_running": "sequences_running",
    "num_requests_waiting": "sequences_waiting",
    "kv_cache_usage_perc": "kv_cache_usage_ratio",
    "cache_config_info": "cache_config_info",
    "lora_requests_info": "lora_info",
    "prefix_cache_queries_total": "prefix_cache_queries_total",
    "prefix_cache_hits_total": "prefix_cache_hits_total",
    "num_preemptions_total": "preemptions_total",
    "prompt_tokens_cached_total": "prefix_cache_hits_total",
    "generation_tokens_total": "generated_tokens_total",
    "request_success_total": "requests_total",
    "iteration_tokens_total": "step_tokens",
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "inter_token_latency_seconds": "inter_token_latency_seconds",
    "request_time_per_output_token_seconds": "time_per_output_token_seconds",
    "e2e_request_latency_seconds": "request_duration_seconds",
    "request_queue_time_seconds": "request_queue_time_seconds",
    "request_prefill_time_seconds": "request_prefill_time_seconds",
    "request_decode_time_seconds": "request_decode_time_seconds",
    "request_inference_time_seconds": "request_inference_time_seconds",
    "request_prompt_tokens": "request_prompt_tokens",
    "request_prefill_kv_computed_tokens": "request_computed_prompt_tokens",
    "request_generation_tokens": "request_generated_tokens",
    "request_max_num_generation_tokens": "request_longest_choice_tokens",
    "request_params_n": "request_choices",
    "request_params_max_tokens": "request_max_tokens",
}
"""Without the prefix, theirs → ours."""

Part: TypeAlias = tuple[str, Mapping[str, str]]
JOINED: Mapping[str, tuple[Part, ...]] = {
    "prompt_tokens_total": (("prompt_tokens_total", {}), ("prefix_cache_hits_total", {})),
    "prompt_tokens_by_source_total": (
        ("prompt_tokens_total", {"source": "local_compute"}),
        ("prefix_cache_hits_total", {"source": "local_cache_hit"}),
    ),
    "num_requests_waiting_by_reason": (("sequences_waiting", {"reason": "capacity"}),),
}
"""Theirs → (ours, labels that it has besides) of each part. Parts with the same labels are summed up: vLLM counts
computed and cached prompt tokens as one."""

LABELS: Mapping[str, str] = {
    "model": "model_name",
    "replica": "engine",
    "finish_reason": "finished_reason",
    "tenant": "",
}
ENGINE: Mapping[str, str] = {"engine": "0"}
"""Of what is measured in the gateway, whichever replicas have served it."""


def families(ours: Mapping[str, Family]) -> Iterator[Samples]:
    """Every metric that vLLM has a name for, under that name; ``ours`` by names of the table."""
    for theirs, own in NAMES.items():
        yield _renamed(theirs, ours[own], {})
    for theirs, parts in JOINED.items():
        first, *others = (_renamed(theirs, ours[own], labels) for own, labels in parts)
        for other in others:
            _join(first, other)
        yield first


def _renamed(theirs: str, family: Family, labels: Mapping[str, str]) -> Samples:
    more = labels if "replica" in family.metric.labels else {**ENGINE, **labels}
    return family.collect(PREFIX + theirs, LABELS, more)


def _join(samples: Samples, other: Samples) -> None:
    """Add a counter's or a gauge's samples to another's."""
    at = {tuple(sorted(sample.labels.items())): index for index, sample in enumerate(samples.samples)}
    for sample in other.samples:
        index = at.get(tuple(sorted(sample.labels.items())))
        if index is None:
            samples.samples.append(sample)
        else:
            samples.samples[index] = sample._replace(value=sample.value + samples.samples[index].value)
