"""The rules by promtool: they are well formed, fire when they should, and are silent when they should be."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "observability/alerts.yml"
WHERE = 'job="penstock",model="m"'
INSTANCE = f'{WHERE},instance="i"'
REPLICA = f'{INSTANCE},replica="0"'
SUMMARIES = {
    (rule["alert"], rule["labels"].get("long")): rule["annotations"]["summary"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def promtool(*arguments: str, text: str | None = None) -> str:
    command = shutil.which("promtool")
    assert command is not None, "scripts/install-debian-packages installs prometheus"
    done = subprocess.run([command, *arguments], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_configuration_and_rules_are_well_formed() -> None:
    assert "SUCCESS" in promtool("check", "config", str(ROOT / "observability/prometheus.yml"))
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


def firing(alert: str, severity: str, *, long: str | None = None, **labels: str) -> dict[str, Any]:
    summary = SUMMARIES[alert, long]
    for name, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
    labels |= {"severity": severity} | ({"long": long} if long else {})
    return {"exp_labels": labels, "exp_annotations": {"summary": summary}}


def slow(histogram: str, bound: str, within: int, of: int) -> dict[str, str]:
    """Each minute ``within`` of ``of`` events are fast enough."""
    return {
        f'penstock_{histogram}_bucket{{{WHERE},le="{bound}"}}': f"0+{within}x400",
        f"penstock_{histogram}_count{{{WHERE}}}": f"0+{of}x400",
    }


BOTH = {"job": "penstock", "model": "m"}
HERE = {**BOTH, "instance": "i"}
BURNING = [("page", "1h"), ("page", "6h")]
CASES: dict[str, tuple[str, str, dict[str, str], list[dict[str, Any]]]] = {
    "half of the first tokens are late": (
        "PenstockTtftSlowBudgetBurn", "2h", slow("time_to_first_token_seconds", "2.5", 50, 100),
        [firing("PenstockTtftSlowBudgetBurn", severity, long=long, **BOTH) for severity, long in BURNING],
    ),
    "one first token of a thousand is late": (
        "PenstockTtftSlowBudgetBurn", "2h", slow("time_to_first_token_seconds", "2.5", 999, 1000), [],
    ),
    "one of ten next tokens is late": (
        "PenstockItlSlowBudgetBurn", "2h", slow("inter_token_latency_seconds", "0.1", 90, 100),
        [firing("PenstockItlSlowBudgetBurn", "page", long="6h", **BOTH)],
    ),
    "a third of the requests fail": (
        "PenstockErrorsBudgetBurn", "2h",
        {
            f'penstock_errors_total{{{WHERE},tenant="t",error_type="internal"}}': "0+10x400",
            f'penstock_requests_total{{{WHERE},tenant="t",finish_reason="error"}}': "0+10x400",
            f'penstock_requests_total{{{WHERE},tenant="t",finish_reason="stop"}}': "0+20x400",
        },
        [firing("PenstockErrorsBudgetBurn", severity, long=long, **BOTH) for severity, long in BURNING],
    ),
    "requests are refused for mistakes of their own": (
        "PenstockErrorsBudgetBurn", "2h",
        {
            f'penstock_errors_total{{{WHERE},tenant="t",error_type="validation"}}': "0+10x400",
            f'penstock_requests_total{{{WHERE},tenant="t",finish_reason="stop"}}': "0+20x400",
        },
        [],
    ),
    "the server is gone": (
        "PenstockDown", "10m", {'up{job="penstock",instance="i"}': "1 1 0x20"},
        [firing("PenstockDown", "page", job="penstock", instance="i")],
    ),
    "an engine does not come back": (
        "PenstockEngineDown", "10m", {f"penstock_engine_up{{{REPLICA}}}": "1 0x20"},
        [firing("PenstockEngineDown", "page", **HERE, replica="0")],
    ),
    "an engine is lost again and again": (
        "PenstockEngineRestarts", "12m", {f'penstock_engine_losses_total{{{REPLICA},cause="signal"}}': "0+1x20"},
        [firing("PenstockEngineRestarts", "ticket", **HERE, replica="0")],
    ),
    "an engine is lost once": (
        "PenstockEngineRestarts", "12m", {f'penstock_engine_losses_total{{{REPLICA},cause="signal"}}': "0 0 1x20"}, [],
    ),
    "there are requests and no steps": (
        "PenstockStepsStalled", "10m",
        {
            f"penstock_requests_queued{{{INSTANCE}}}": "0x20",
            f"penstock_requests_running{{{INSTANCE}}}": "3x20",
            f"penstock_step_duration_seconds_count{{{REPLICA}}}": "500x20",
        },
        [firing("PenstockStepsStalled", "page", **HERE)],
    ),
    "there are requests and steps": (
        "PenstockStepsStalled", "10m",
        {
            f"penstock_requests_queued{{{INSTANCE}}}": "0x20",
            f"penstock_requests_running{{{INSTANCE}}}": "3x20",
            f"penstock_step_duration_seconds_count{{{REPLICA}}}": "500+9x20",
        },
        [],
    ),
    "the queue grows": (
        "PenstockQueueGrows", "20m",
        {f"penstock_requests_queued{{{INSTANCE}}}": "0+5x30", f"penstock_requests_running{{{INSTANCE}}}": "64x30"},
        [firing("PenstockQueueGrows", "ticket", **HERE)],
    ),
    "the cache is full": (
        "PenstockCacheFull", "12m",
        {
            f"penstock_kv_cache_usage_ratio{{{REPLICA}}}": "0.99x20",
            f"penstock_preemptions_total{{{REPLICA}}}": "0+3x20",
        },
        [firing("PenstockCacheFull", "ticket", **HERE, replica="0")],
    ),
    "a tenth of the requests find no room": (
        "PenstockRejections", "25m",
        {
            f'penstock_rejections_total{{{WHERE},tenant="t",reason="queue_full"}}': "0+10x30",
            f'penstock_requests_total{{{WHERE},tenant="t",finish_reason="stop"}}': "0+90x30",
        },
        [firing("PenstockRejections", "ticket", **BOTH)],
    ),
    "a request was given up": (
        "PenstockPoisonRequest", "5m", {f"penstock_poison_requests_total{{{INSTANCE}}}": "0 0 1x20"},
        [firing("PenstockPoisonRequest", "ticket", **HERE)],
    ),
    "the journal cannot be written": (
        "PenstockJournalFailed", "5m", {f"penstock_journal_failed{{{INSTANCE}}}": "1x20"},
        [firing("PenstockJournalFailed", "page", **HERE)],
    ),
}  # fmt: skip


def test_every_alert_has_a_case() -> None:
    assert {alert for alert, *_, expected in CASES.values() if expected} == {alert for alert, _ in SUMMARIES}


def test_rules_fire_when_they_should(tmp_path: Path) -> None:
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in inputs.items()],
            "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
        }
        for name, (alert, at, inputs, expected) in CASES.items()
    ]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_a_wrong_expectation_would_be_noticed(tmp_path: Path) -> None:
    test = {
        "interval": "1m",
        "input_series": [{"series": 'up{job="penstock",instance="i"}', "values": "1x20"}],
        "alert_rule_test": [
            {"eval_time": "10m", "alertname": "PenstockDown", "exp_alerts": [{"exp_labels": {"job": "penstock"}}]}
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", str(file))
