"""``penstock top``: what a running server does, from ``/metrics`` and ``/v1/status``."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.terminal.client import Server
from gateway.terminal.errors import AwayError
from gateway.terminal.metrics import Scrape, quantile, rate

LATENCIES = {
    "time to first token": "penstock_time_to_first_token_seconds",
    "between tokens": "penstock_inter_token_latency_seconds",
    "in the queue": "penstock_request_queue_time_seconds",
    "whole answer": "penstock_request_duration_seconds",
    "engine step": "penstock_step_duration_seconds",
}
BAR = 16


def run(server: Server, interval: float, *, once: bool) -> int:
    """Until Ctrl-C; with ``once``, one view of the first ``interval`` and no more."""
    before = scrape(server)
    if once or not sys.stdout.isatty():
        time.sleep(interval)
        Console().print(view(server.url, before, scrape(server), status(server)))
        return 0
    with Live(Text("…"), screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval)
                try:
                    now = scrape(server)
                    live.update(view(server.url, before, now, status(server)), refresh=True)
                    before = now
                except AwayError as error:
                    live.update(Text(f"{error}\nlooking again …", style="yellow"), refresh=True)
        except KeyboardInterrupt:
            return 0


def scrape(server: Server) -> Scrape:
    text = server.get("/metrics").text
    return Scrape.parse(text, time.monotonic())


def status(server: Server) -> dict[str, Any] | None:
    """None where the server has no such route."""
    response = server.get_or_none("/v1/status")
    return None if response is None else dict(response.json())


def view(url: str, before: Scrape, now: Scrape, state: dict[str, Any] | None) -> RenderableType:
    """Everything, for one screen."""
    return Group(
        _head(url, now, state), "", _rates(before, now), "", _latencies(before, now), "", _replicas(now, state)
    )


def _head(url: str, now: Scrape, state: dict[str, Any] | None) -> RenderableType:
    line = Text()
    line.append("Penstock ", style="bold")
    if state is not None:
        line.append(f"{state['version']}  {state['model']}  ")
        line.append("ready" if state["ready"] else "not ready", style="green" if state["ready"] else "yellow")
    line.append(f"  {url}", style="dim")
    line.append(f"\n{now.sum('penstock_requests_running'):.0f} requests running, ")
    line.append(f"{now.sum('penstock_requests_queued'):.0f} waiting, {now.sum('penstock_requests_total'):.0f} ended, ")
    line.append(f"{now.sum('penstock_errors_total'):.0f} failed or turned away")
    return line


def _rates(before: Scrape, now: Scrape) -> RenderableType:
    table = _table("a second", "now", "all in all")
    for title, name in (
        ("tokens generated", "penstock_generated_tokens_total"),
        ("prompt tokens computed", "penstock_prompt_tokens_total"),
        ("requests ended", "penstock_requests_total"),
        ("preemptions", "penstock_preemptions_total"),
    ):
        table.add_row(title, f"{rate(before, now, name):,.1f}", f"{now.sum(name):,.0f}")
    asked, found = "penstock_prefix_cache_queries_total", "penstock_prefix_cache_hits_total"
    table.add_row(
        "prefix cache hits",
        _share(rate(before, now, found), rate(before, now, asked)),
        _share(now.sum(found), now.sum(asked)),
    )
    return table


def _latencies(before: Scrape, now: Scrape) -> RenderableType:
    table = _table("latency", "p50", "p95", "p99")
    for title, name in LATENCIES.items():
        table.add_row(title, *(_time(quantile(before, now, name, share)) for share in (0.5, 0.95, 0.99)))
    return table


def _replicas(now: Scrape, state: dict[str, Any] | None) -> RenderableType:
    table = _table("replica", "running", "waiting", "restarts", "blocks in use")
    up = {str(each["replica"]): each["up"] for each in state["replicas"]} if state is not None else {}
    for number in now.values("penstock_sequences_running", "replica"):
        usage = now.sum("penstock_kv_cache_usage_ratio", replica=number)
        filled = round(usage * BAR)
        bar = Text("█" * filled, style="cyan") + Text("░" * (BAR - filled), style="dim") + Text(f" {usage:.0%}")
        table.add_row(
            number if up.get(number, True) else f"{number} (down)",
            f"{now.sum('penstock_sequences_running', replica=number):.0f}",
            f"{now.sum('penstock_sequences_waiting', replica=number):.0f}",
            f"{now.sum('penstock_engine_restarts_total', replica=number):.0f}",
            bar,
        )
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, title in enumerate(titles):
        table.add_column(
            title, justify="left" if at == 0 or title == "blocks in use" else "right", min_width=9 if at else 24
        )
    return table


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "–"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
