"""``penstock bench``: how fast a running server answers, as a table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.load.client import Client, Course, Exchange, Request
from gateway.load.prompts import Lengths, PromptMaker
from gateway.load.summary import Slo, summarize
from gateway.load.traffic import closed_loop, open_loop, poisson_arrivals
from gateway.terminal.errors import ServerError

SHOWN = {
    "ttft_ms": "time to first token",
    "itl_ms": "between tokens",
    "tpot_ms": "per output token",
    "e2e_ms": "whole answer",
}


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, and when."""

    requests: int
    concurrency: int
    rate: float | None
    """Requests a second at random times; None for ``concurrency`` of them under way at any time."""
    prompt_tokens: Lengths
    output_tokens: Lengths
    shared_prefix: int
    seed: int
    slo: Slo | None = None

    def draw(self) -> list[Request]:
        """Prompts are token ids, so that they are of exactly these lengths."""
        maker = PromptMaker(None, self.seed)
        prompts = maker.make(self.requests, self.prompt_tokens, self.shared_prefix)
        return [*map(Request, prompts, maker.lengths(self.requests, self.output_tokens))]


def run(client: Client, load: Load, *, as_json: bool) -> int:
    """Measure and show. Raises ``ServerError`` where the first request, which is not counted, fails."""
    result = summarize(asyncio.run(measure(client, load)), None if load.rate else load.concurrency, load.slo)
    print(json.dumps(result)) if as_json else show(result)
    return 1 if result["failed"] else 0


async def measure(client: Client, load: Load) -> Sequence[Course]:
    """All courses, in the order of the requests."""
    first = (await client.ask(Request(PromptMaker(None, load.seed + 1).make(1, Lengths.parse("32"))[0], 4))).read()
    if first.error:
        raise ServerError(" ".join(first.error.split()))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=load.requests)

        async def send(request: Request) -> Exchange:
            exchange = await client.ask(request)
            progress.advance(task)
            return exchange

        if load.rate:
            exchanges = await open_loop(send, load.draw(), poisson_arrivals(load.requests, load.rate, load.seed))
        else:
            exchanges = await closed_loop(send, load.draw(), load.concurrency)
    return [exchange.read() for exchange in exchanges]


def show(result: dict[str, Any], console: Console | None = None) -> None:
    """Rates, then latencies; failures where there were some."""
    console = console or Console()
    console.print(f"{result['requests']} requests, {result['failed']} failed", highlight=False)
    for error in result["errors"]:
        console.print(f"  {error}", style="red", markup=False)
    if "seconds" not in result:
        return
    rates = Table(box=None, pad_edge=False, show_header=False)
    rates.add_column(min_width=24)
    rates.add_column(justify="right")
    for title, value in (
        ("seconds", result["seconds"]),
        ("requests a second", result["requests_per_second"]),
        ("tokens out a second", result["output_tokens_per_second"]),
        ("tokens in a second", result["input_tokens_per_second"]),
    ):
        rates.add_row(title, f"{value:,.1f}")
    if steady := result.get("steady_decode"):
        rates.add_row(f"  while {steady['streams']} streams ran", f"{steady['tokens_per_second']:,.1f}")
    if good := result.get("goodput"):
        rates.add_row("within the limits", f"{good['share']:.0%}")
    latencies = Table(box=None, pad_edge=False, header_style="bold")
    latencies.add_column("milliseconds", min_width=24)
    for column in ("p50", "p90", "p99", "mean"):
        latencies.add_column(column, justify="right", min_width=9)
    for name, title in SHOWN.items():
        latencies.add_row(title, *(f"{result[name][column]:,.1f}" for column in ("p50", "p90", "p99", "mean")))
    console.print(rates, "", latencies)
