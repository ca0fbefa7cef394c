"""The declared table of metrics: what each is called, what it means, and which record feeds it.

A row says where its value comes from: the records that feed it, the field of the record, and its labels, of which
``model`` and ``replica`` are the recorder's and all others are fields of the record. ``docs/metrics.md`` is generated
from the table, and dashboards and alerts may name nothing else. Names and buckets suit the dashboards of the field; a
latency target that a dashboard shows must be the bound of a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from observability.records import (
    Adapters,
    BuildInfo,
    CacheConfig,
    Conviction,
    EngineEvent,
    EngineState,
    GrammarTried,
    IgnoredFields,
    InterTokenLatencies,
    JournalCommit,
    JournalState,
    LossKind,
    Rejection,
    Replay,
    RequestStats,
    Resume,
    ResumeOutcome,
    Routed,
    StepStats,
)

PREFIX = "penstock_"


def _doubling(first: float, count: int) -> tuple[float, ...]:
    return tuple(first * 2**power for power in range(count))


FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
)  # fmt: skip
PER_TOKEN = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20,
)  # fmt: skip
END_TO_END = _doubling(0.01, 18)
COMMIT_SECONDS = _doubling(0.00005, 16)
STEP_SECONDS = _doubling(0.0005, 16)
TOKENS = _doubling(1, 18)
CHOICES = _doubling(1, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table."""

    name: str
    """Without the prefix; a counter's ends in ``_total``."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    fed_by: tuple[type, ...] = ()
    """Records; empty for a gauge that is read when somebody looks, see :meth:`Metrics.watch`."""
    field: str = ""
    """Of the record; empty counts the records themselves. A list feeds a histogram with each of its values."""
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()
    known: tuple[str, ...] = ()
    """All values of the one label that is the record's own: their series begin at zero, so that a first event is a
    rise, too."""
    exemplar: str = ""
    """Field of ``RequestStats`` that is shown with the request's trace, beside the bucket it falls into."""

    @property
    def own_labels(self) -> tuple[str, ...]:
        """Labels that are fields of the record."""
        return tuple(label for label in self.labels if label not in ("model", "replica"))


MODEL, REPLICA, TENANT = ("model",), ("model", "replica"), ("model", "tenant")

METRICS = (
    # --- requests, at their end ---
    Metric(
        name="time_to_first_token_seconds", kind="histogram", buckets=FIRST_TOKEN,
        exemplar="time_to_first_token",
        fed_by=(RequestStats,), field="time_to_first_token",
        help="From the arrival of a request at the gateway to its first output token.",
    ),
    Metric(
        name="inter_token_latency_seconds", kind="histogram", buckets=PER_TOKEN,
        exemplar="longest_gap",
        fed_by=(InterTokenLatencies,), field="values",
        help="Gaps between successive output tokens of a choice; those that arrive together share the gap evenly.",
    ),
    Metric(
        name="time_per_output_token_seconds", kind="histogram", buckets=PER_TOKEN,
        exemplar="time_per_output_token",
        fed_by=(RequestStats,), field="time_per_output_token",
        help="Mean time of an output token after the first, one value for each request.",
    ),
    Metric(
        name="request_duration_seconds", kind="histogram", buckets=END_TO_END,
        exemplar="end_to_end",
        fed_by=(RequestStats,), field="end_to_end",
        help="From the arrival of a request to the end of its answer.",
    ),
    Metric(
        name="request_queue_time_seconds", kind="histogram", buckets=FIRST_TOKEN,
        exemplar="queue_time",
        fed_by=(RequestStats,), field="queue_time",
        help="Time a request waited before the first step that computed it.",
    ),
    Metric(
        name="request_prefill_time_seconds", kind="histogram", buckets=FIRST_TOKEN,
        exemplar="prefill_time",
        fed_by=(RequestStats,), field="prefill_time",
        help="From the first step that computed a request to its first output token.",
    ),
    Metric(
        name="request_decode_time_seconds", kind="histogram", buckets=END_TO_END,
        exemplar="decode_time",
        fed_by=(RequestStats,), field="decode_time",
        help="From the first output token of a request to its last.",
    ),
    Metric(
        name="request_inference_time_seconds", kind="histogram", buckets=END_TO_END,
        exemplar="inference_time",
        fed_by=(RequestStats,), field="inference_time",
        help="From the first step that computed a request to its last output token.",
    ),
    Metric(
        name="replay_pause_seconds", kind="histogram", buckets=END_TO_END,
        fed_by=(RequestStats,), field="pauses",
        help="How long a choice that had begun stood still because its engine was lost, token to token.",
    ),
    Metric(
        name="request_prompt_tokens", kind="histogram", buckets=TOKENS,
        fed_by=(RequestStats,), field="prompt_tokens", help="Prompt tokens of a request.",
    ),
    Metric(
        name="request_computed_prompt_tokens", kind="histogram", buckets=TOKENS,
        fed_by=(RequestStats,), field="computed_prompt_tokens",
        help="Prompt tokens of a request that did not come from the prefix cache.",
    ),
    Metric(
        name="request_generated_tokens", kind="histogram", buckets=TOKENS,
        fed_by=(RequestStats,), field="generated_tokens", help="Output tokens of a request, all choices together.",
    ),
    Metric(
        name="request_longest_choice_tokens", kind="histogram", buckets=TOKENS,
        fed_by=(RequestStats,), field="longest_choice", help="Output tokens of a request's longest choice.",
    ),
    Metric(
        name="request_choices", kind="histogram", buckets=CHOICES,
        fed_by=(RequestStats,), field="choices", help="Choices that a request asked for, of all its prompts.",
    ),
    Metric(
        name="request_max_tokens", kind="histogram", buckets=TOKENS,
        fed_by=(RequestStats,), field="max_tokens",
        help="Most output tokens that a request allowed a choice; what the context leaves, where it said nothing.",
    ),
    Metric(
        name="requests_total", kind="counter", labels=("model", "tenant", "finish_reason"),
        fed_by=(RequestStats,), help="Requests that have ended, by how they ended.",
    ),
    Metric(
        name="tenant_prompt_tokens_total", kind="counter", labels=TENANT,
        fed_by=(RequestStats,), field="prompt_tokens", help="Prompt tokens of requests that have ended.",
    ),
    Metric(
        name="tenant_generated_tokens_total", kind="counter", labels=TENANT,
        fed_by=(RequestStats,), field="generated_tokens", help="Output tokens of requests that have ended.",
    ),
    Metric(
        name="cached_prompt_tokens_total", kind="counter", labels=TENANT,
        fed_by=(RequestStats,), field="cached_tokens", help="Prompt tokens that came from the prefix cache.",
    ),
    Metric(
        name="errors_total", kind="counter", labels=("model", "tenant", "error_type"),
        fed_by=(RequestStats, Rejection),
        help="Requests that failed or were turned away, after the headers of a stream as well as before.",
    ),
    Metric(
        name="rejections_total", kind="counter", labels=("model", "tenant", "reason"),
        fed_by=(Rejection,), help="Requests turned away before they were accepted.",
    ),
    Metric(
        name="ignored_fields_total", kind="counter", labels=TENANT,
        fed_by=(IgnoredFields,), field="count",
        help="Request fields that did nothing: let through by --unknown-fields, or not read by the chat template.",
    ),
    Metric(
        name="grammar_compile_seconds", kind="histogram", labels=("model", "outcome"), buckets=FIRST_TOKEN,
        fed_by=(GrammarTried,), field="seconds",
        help="Time to compile a grammar before its request is accepted; those known from earlier requests take none.",
    ),
    Metric(
        name="requests_queued", kind="gauge", help="Requests accepted and not yet begun by an engine."),
    Metric(
        name="requests_running", kind="gauge", help="Requests that an engine has begun and that have not ended."),
    # --- streams that may be resumed ---
    Metric(
        name="streams_held", kind="gauge", help="Streams that may be resumed: running, or complete and still kept."),
    Metric(
        name="resumes_total", kind="counter", labels=("model", "outcome"),
        known=get_args(ResumeOutcome),
        fed_by=(Resume,), help="Readers that came back for a stream, by what they were answered.",
    ),
    Metric(
        name="journal_commit_seconds", kind="histogram", buckets=COMMIT_SECONDS,
        fed_by=(JournalCommit,), field="duration", help="Duration of a commit of the durable journal.",
    ),
    Metric(
        name="journal_entries_total", kind="counter",
        fed_by=(JournalCommit,), field="entries", help="Messages of tokens that the durable journal has committed.",
    ),
    Metric(
        name="journal_failed", kind="gauge",
        fed_by=(JournalState,), field="failed",
        help="1 while the durable journal cannot be written: streams go on, and would not outlive the server.",
    ),
    # --- engine steps, as they happen ---
    Metric(
        name="step_duration_seconds", kind="histogram", labels=REPLICA, buckets=STEP_SECONDS,
        fed_by=(StepStats,), field="duration", help="Duration of an engine step.",
    ),
    Metric(
        name="step_plan_seconds_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="plan_time", help="Time spent planning steps and handing them to the model.",
    ),
    Metric(
        name="step_compute_seconds_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="compute_time", help="Time spent waiting for the model's tokens.",
    ),
    Metric(
        name="step_update_seconds_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="update_time", help="Time spent taking in what steps have computed.",
    ),
    Metric(
        name="step_tokens", kind="histogram", labels=REPLICA, buckets=TOKENS,
        fed_by=(StepStats,), field="scheduled_tokens", help="Tokens computed in a step, prompt and decode together.",
    ),
    Metric(
        name="prompt_tokens_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="prompt_tokens", help="Prompt tokens computed; cached ones are not computed.",
    ),
    Metric(
        name="generated_tokens_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="generated_tokens", help="Output tokens generated.",
    ),
    Metric(
        name="prefix_cache_queries_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="prefix_queries", help="Prompt tokens looked up in the prefix cache.",
    ),
    Metric(
        name="prefix_cache_hits_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="prefix_hits", help="Prompt tokens found in the prefix cache.",
    ),
    Metric(
        name="preemptions_total", kind="counter", labels=REPLICA,
        fed_by=(StepStats,), field="preemptions", help="Sequences that gave up their blocks to others.",
    ),
    Metric(
        name="sequences_running", kind="gauge", labels=REPLICA,
        fed_by=(EngineState,), field="running", help="Sequences that hold KV-cache blocks.",
    ),
    Metric(
        name="sequences_waiting", kind="gauge", labels=REPLICA,
        fed_by=(EngineState,), field="waiting", help="Sequences in the engine's waiting queue.",
    ),
    Metric(
        name="kv_cache_usage_ratio", kind="gauge", labels=REPLICA,
        fed_by=(EngineState,), field="kv_cache_usage", help="Share of KV-cache blocks in use by sequences, 0 to 1.",
    ),
    # --- engines and the build ---
    Metric(
        name="engine_up", kind="gauge", labels=REPLICA,
        fed_by=(EngineEvent,), field="up", help="1 while the replica's engine serves.",
    ),
    Metric(
        name="engine_restarts_total", kind="counter", labels=REPLICA,
        fed_by=(EngineEvent,), field="restarted", help="Engines that came up again after a loss.",
    ),
    Metric(
        name="engine_losses_total", kind="counter", labels=("model", "replica", "cause"),
        known=get_args(LossKind),
        fed_by=(EngineEvent,), field="lost",
        help="Engines lost, by cause: signal, exit, error, silent, stalled or garbled; see docs/reliability.md.",
    ),
    Metric(
        name="poison_requests_total", kind="counter",
        fed_by=(Conviction,), help="Requests given up because the engine crashed each time it computed them.",
    ),
    Metric(
        name="routed_total", kind="counter", labels=("model", "replica", "reason"),
        fed_by=(Routed,), help="Choices sent to a replica, by what decided it; see docs/replicas.md.",
    ),
    Metric(
        name="replays_total", kind="counter", labels=REPLICA,
        fed_by=(Replay,), help="Choices handed to an engine again after a loss, to go on where they were.",
    ),
    Metric(
        name="cache_config_info", kind="gauge", labels=("model", "replica", "block_size", "num_gpu_blocks"),
        fed_by=(CacheConfig,), help="Always 1; its labels are the tokens in a block and the number of blocks.",
    ),
    Metric(
        name="lora_info", kind="gauge",
        labels=("model", "max_lora", "running_lora_adapters", "waiting_lora_adapters"),
        fed_by=(Adapters,), help="Always 1; its labels say that no adapters are served, which inference gateways ask.",
    ),
    Metric(
        name="build_info", kind="gauge", labels=("version",),
        fed_by=(BuildInfo,), help="Always 1; its label is the version of Penstock.",
    ),
)  # fmt: skip
