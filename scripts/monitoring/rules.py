"""Recording rules and alerts for Prometheus: what is promised, how fast it is being broken, and what is broken.

An objective is a share of events that must be good. Its alerts look at how fast the rest, the error budget, is spent,
over a long window and, so that they end soon after the trouble, a short one (Google's "SRE Workbook", chapter 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from scripts.page import YAML_NOTICE

WINDOWS = ("5m", "30m", "1h", "6h", "3d")
BY = "job, model"


@dataclass(frozen=True, slots=True)
class Objective:
    """``bad``: expression of the share of events that are not good, with ``{window}`` and ``{by}``."""

    name: str
    events: str
    says: str
    share: float
    bad: str

    def recorded(self, window: str) -> str:
        """The name of the series."""
        return f"penstock:{self.name}:ratio_rate{window}"


@dataclass(frozen=True, slots=True)
class Burn:
    """So many times faster than the budget of 30 days allows, over both windows."""

    factor: float
    long: str
    short: str
    lasts: str
    severity: str


def _slow(histogram: str, bound: str) -> str:
    within = f'sum by ({{by}}) (rate(penstock_{histogram}_bucket{{{{le="{bound}"}}}}[{{window}}]))'
    return f"1 - {within} / (sum by ({{by}}) (rate(penstock_{histogram}_count[{{window}}])) > 0)"


TTFT_BOUND, ITL_BOUND = "2.5", "0.1"
"""Seconds, as the buckets' labels say it."""
OBJECTIVES = (
    Objective(
        "ttft_slow",
        "requests",
        f"the first token comes within {TTFT_BOUND} s",
        0.99,
        _slow("time_to_first_token_seconds", TTFT_BOUND),
    ),
    Objective(
        "itl_slow",
        "tokens",
        f"the next token comes within {ITL_BOUND} s",
        0.99,
        _slow("inter_token_latency_seconds", ITL_BOUND),
    ),
    Objective(
        "errors",
        "requests",
        "a request does not fail by a fault of the server",
        0.99,
        'sum by ({by}) (rate(penstock_errors_total{{error_type="internal"}}[{window}])'
        " or 0 * rate(penstock_requests_total[{window}]))"
        " / (sum by ({by}) (rate(penstock_requests_total[{window}])) > 0)",
    ),
)
BURNS = (
    Burn(14.4, "1h", "5m", "2m", "page"),
    Burn(6, "6h", "30m", "15m", "page"),
    Burn(1, "3d", "6h", "3h", "ticket"),
)


def recording_rules() -> list[dict[str, Any]]:
    """The share of bad events over each window."""
    return [
        {"record": objective.recorded(window), "expr": objective.bad.format(window=window, by=BY)}
        for objective in OBJECTIVES
        for window in WINDOWS
    ]


def burn_alerts() -> list[dict[str, Any]]:
    """One alert with three rules for each objective."""
    return [
        _alert(
            f"Penstock{''.join(part.capitalize() for part in objective.name.split('_'))}BudgetBurn",
            f"{objective.recorded(burn.long)} > {burn.factor:g} * {1 - objective.share:.4g}"
            f" and {objective.recorded(burn.short)} > {burn.factor:g} * {1 - objective.share:.4g}",
            burn.lasts,
            burn.severity,
            f"Of {objective.share:.0%} of {objective.events} it is promised that {objective.says};"
            f" the budget for the rest is being spent {burn.factor:g} times too fast ({burn.long} and {burn.short}).",
            long=burn.long,
        )
        for objective in OBJECTIVES
        for burn in BURNS
    ]


def _alert(name: str, expression: str, lasts: str, severity: str, summary: str, **labels: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasts,
        "labels": {"severity": severity, **labels},
        "annotations": {"summary": summary},
    }


SYMPTOMS = (
    _alert("PenstockDown", 'up{job="penstock"} == 0', "2m", "page", "{{ $labels.instance }} does not answer."),
    _alert(
        "PenstockEngineDown",
        "penstock_engine_up == 0",
        "2m",
        "page",
        "Replica {{ $labels.replica }} of {{ $labels.instance }} has been without an engine for two minutes.",
    ),
    _alert(
        "PenstockEngineRestarts",
        "sum by (job, instance, model, replica) (increase(penstock_engine_losses_total[15m])) > 2",
        "0m",
        "ticket",
        "Replica {{ $labels.replica }} of {{ $labels.instance }} has lost its engine again and again.",
    ),
    _alert(
        "PenstockPoisonRequest",
        "increase(penstock_poison_requests_total[1h]) > 0",
        "0m",
        "ticket",
        "A request has crashed engines until it was given up; its id is in the log of {{ $labels.instance }}.",
    ),
    _alert(
        "PenstockStepsStalled",
        "(sum by (job, instance, model) (penstock_requests_queued + penstock_requests_running) > 0)"
        " unless sum by (job, instance, model) (increase(penstock_step_duration_seconds_count[2m])) > 0",
        "2m",
        "page",
        "{{ $labels.instance }} has requests and makes no steps.",
    ),
    _alert(
        "PenstockQueueGrows",
        "delta(penstock_requests_queued[10m]) > 10 and abs(delta(penstock_requests_running[10m])) <= 1",
        "5m",
        "ticket",
        "More requests wait at {{ $labels.instance }} than leave, and no more of them run: it is at its limit.",
    ),
    _alert(
        "PenstockCacheFull",
        "penstock_kv_cache_usage_ratio > 0.95"
        " and on (job, instance, model, replica) rate(penstock_preemptions_total[5m]) > 0",
        "5m",
        "ticket",
        "Sequences of replica {{ $labels.replica }} give up their blocks to others and are computed again.",
    ),
    _alert(
        "PenstockRejections",
        'sum by (job, model) (rate(penstock_rejections_total{reason=~"queue_full|unavailable"}[10m]))'
        " / (sum by (job, model) (rate(penstock_requests_total[10m]))"
        " + sum by (job, model) (rate(penstock_rejections_total[10m])) > 0) > 0.05",
        "10m",
        "ticket",
        "More than 5 % of requests are turned away for want of room.",
    ),
    _alert(
        "PenstockJournalFailed",
        "penstock_journal_failed == 1",
        "1m",
        "page",
        "The durable journal of {{ $labels.instance }} cannot be written: streams would not outlive the server.",
    ),
)


def alerts_file() -> str:
    """``alerts.yml``: recording rules, then alerts."""
    groups: Sequence[dict[str, Any]] = (
        {"name": "penstock-objectives", "rules": recording_rules()},
        {"name": "penstock-burn-rates", "rules": burn_alerts()},
        {"name": "penstock-symptoms", "rules": list(SYMPTOMS)},
    )
    text = yaml.dump({"groups": list(groups)}, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
    return YAML_NOTICE.format(source="scripts/monitoring/rules.py") + text


class _Dumper(yaml.SafeDumper):
    """Without anchors: each rule is written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
