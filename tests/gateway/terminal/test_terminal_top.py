"""``penstock top``: two scrapes and a status → a screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gateway.terminal.errors import ServerError
from gateway.terminal.metrics import Scrape, quantile, rate
from gateway.terminal.top import view


def page(tokens: int, low: int, high: int) -> str:
    return "\n".join(
        [
            "# TYPE penstock_generated_tokens_total counter",
            f'penstock_generated_tokens_total{{model="m",replica="0"}} {tokens}',
            f'penstock_generated_tokens_total{{model="m",replica="1"}} {tokens}',
            "# TYPE penstock_time_to_first_token_seconds histogram",
            f'penstock_time_to_first_token_seconds_bucket{{le="0.1"}} {low}',
            f'penstock_time_to_first_token_seconds_bucket{{le="0.3"}} {high}',
            f'penstock_time_to_first_token_seconds_bucket{{le="+Inf"}} {high}',
            "# TYPE penstock_sequences_running gauge",
            'penstock_sequences_running{model="m",replica="0"} 3',
            'penstock_sequences_running{model="m",replica="1"} 0',
            "# TYPE penstock_kv_cache_usage_ratio gauge",
            'penstock_kv_cache_usage_ratio{model="m",replica="0"} 0.5',
            "",
        ]
    )


BEFORE, NOW = Scrape.parse(page(100, 0, 4), 10.0), Scrape.parse(page(300, 10, 24), 12.0)


def test_rates_and_quantiles_are_of_the_time_between() -> None:
    name = "penstock_time_to_first_token_seconds"
    assert rate(BEFORE, NOW, "penstock_generated_tokens_total") == 200
    assert rate(BEFORE, NOW, "penstock_generated_tokens_total", replica="1") == 100
    assert rate(NOW, BEFORE, "penstock_generated_tokens_total") == 0, "a server that began anew"
    assert quantile(BEFORE, NOW, name, 0.25) == pytest.approx(0.05)
    assert quantile(BEFORE, NOW, name, 0.75) == pytest.approx(0.2)
    assert quantile(NOW, NOW, name, 0.5) is None and quantile(BEFORE, NOW, "none", 0.5) is None


def test_a_screen() -> None:
    replicas = [{"replica": 0, "up": True}, {"replica": 1, "up": False}]
    state = {"version": "1.2", "model": "demo", "ready": True, "replicas": replicas}
    console = Console(file=io.StringIO(), width=100)
    console.print(view("http://server", BEFORE, NOW, state))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "Penstock 1.2 demo ready http://server" in lines
    assert "tokens generated 200.0 600" in lines
    assert "time to first token 100 ms 280 ms 296 ms" in lines
    assert any(line.startswith("0 3 0 0 ████████░") and line.endswith(" 50%") for line in lines)
    assert any(line.startswith("1 (down) 0 0 0 ░") for line in lines)
    assert max(map(len, console.file.getvalue().splitlines())) <= 80


def test_what_is_no_metrics_page_is_told() -> None:
    with pytest.raises(ServerError, match="cannot be read"):
        Scrape.parse("<html> a page {", 0)
