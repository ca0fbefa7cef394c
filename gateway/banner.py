"""What the terminal shows while a server starts: progress of each stage, then the banner.

On a terminal a bar is drawn in place; elsewhere (a log file, a container) each stage gets plain lines, one when it
begins and one when it ends, so that nothing depends on control characters.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from engine.messages import EngineInfo, Loading
from engine.quantization import NONE

QUIET_SECONDS = 5.0
"""On plain output a long stage says how far it is this often."""


class StartupProgress:
    """Draws :class:`Loading` messages. A stage is known by its name; its total may be 0 where nobody knows it yet."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bar = _progress_bar(console) if console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}
        self._spoke: dict[str, float] = {}
        self._finished: set[str] = set()
        self._last: Loading | None = None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        last = self._last
        if error is None and last is not None and last.stage not in self._finished:
            self._end(last, self._clock())
        if self._bar is not None:
            self._bar.stop()

    def update(self, message: Loading) -> None:
        """Show one message; those that come after the end of their stage are ignored."""
        if message.stage in self._finished:
            return
        now = self._clock()
        last, self._last = self._last, message
        if last is not None and last.stage != message.stage and not last.total:
            self._end(last, now)  # nobody knew its total, and the next stage has begun
        self._begun.setdefault(message.stage, now)
        if message.total > 0 and message.done >= message.total:
            self._end(message, now)
        elif self._bar is not None:
            self._draw(self._bar, message)
        elif message.stage not in self._spoke or now - self._spoke[message.stage] >= QUIET_SECONDS:
            self._spoke[message.stage] = now
            self._line(f"{message.stage} …{_amount(message)}")

    def _end(self, message: Loading, now: float) -> None:
        self._finished.add(message.stage)
        if self._bar is not None:
            self._draw(self._bar, message if message.total else Loading(stage=message.stage, done=1, total=1))
        else:
            seconds = now - self._begun[message.stage]
            self._line(f"{message.stage}: done in {seconds:.1f} s{_amount(message, finished=True)}")

    def _draw(self, bar: Progress, message: Loading) -> None:
        task = self._tasks.get(message.stage)
        if task is None:
            task = self._tasks[message.stage] = bar.add_task(message.stage, total=None, amount="")
        amount = _amount(message).strip()
        bar.update(task, completed=message.done, total=message.total or None, amount=amount)

    def _line(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)


def _amount(message: Loading, *, finished: bool = False) -> str:
    """`` 12/48 layers`` or `` 1.2 GiB/3.4 GiB``; nothing where the total is not known or says no more than "done"."""
    if message.total <= 1:
        return ""
    if message.unit in ("B", "bytes"):
        done, total = format_bytes(message.done), format_bytes(message.total)
    else:
        done, total = str(message.done), f"{message.total} {message.unit}".strip()
    return f" ({total})" if finished else f" {done}/{total}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Everything that the banner says."""

    url: str
    """As a browser on this machine would write it, without a path: ``http://127.0.0.1:8000``."""
    model: str
    """The name that clients use."""
    needs_key: bool
    info: EngineInfo
    """Of the first replica."""
    replicas: int = 1
    seconds: float
    """From the start of the process to being ready."""
    stages: Mapping[str, float]
    """Where that time went: stage → seconds, in order. Stages may overlap."""


def print_banner(console: Console, started: Started) -> None:
    """The last thing printed at start-up: where the server is, what it serves, and a line to try."""
    info = started.info
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    each = f", in each of {started.replicas} replicas" if started.replicas > 1 else ""
    facts = {
        "URL": f"{started.url}/v1",
        "Chat page": f"{started.url}/",
        "Model": f"{started.model}, {format_count(info.parameters)} parameters, {format_bytes(info.weight_bytes)}",
        "Runs on": f"{info.device}, {info.dtype}{_quantized(info)}{_ranks(info)}",
        "Kernels": _kernels(info),
        "KV cache": f"{info.cache_tokens:,} tokens, {format_bytes(info.cache_bytes)}{_held(info)}{each}",
        "Context": f"up to {info.max_model_len:,} tokens",
        "Started in": f"{started.seconds:.1f} s{_where(started.stages)}",
    }
    for name, value in facts.items():
        table.add_row(name, Text(value, style="bold" if name == "URL" else ""))
    console.print()
    console.print(Text("Penstock is ready", style="bold green"))
    console.print(table)
    console.print()
    console.print(Text("Try:", style="dim"))
    # A line to copy must not be broken or coloured.
    console.print(Text(curl_line(started)), soft_wrap=True)
    console.print()


def curl_line(started: Started) -> str:
    """A command that any POSIX shell runs as it stands."""
    body = {"model": started.model, "messages": [{"role": "user", "content": "What is Penstock?"}]}
    key = ' -H "Authorization: Bearer $PENSTOCK_API_KEY"' if started.needs_key else ""
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {started.url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d {data}"


def _ranks(info: EngineInfo) -> str:
    return f", {info.ranks} ranks" if info.ranks > 1 else ""


def _quantized(info: EngineInfo) -> str:
    return "" if info.quantization == NONE else f", weights quantized to {info.quantization}"


def _held(info: EngineInfo) -> str:
    return "" if info.kv_cache_dtype == "auto" else f" of {info.kv_cache_dtype}"


def _kernels(info: EngineInfo) -> str:
    """Which compiled build computes, and what is left to torch."""
    if not info.kernel_builds:
        return "none that are compiled: PyTorch computes"
    builds = " and ".join(build.split()[0] for build in info.kernel_builds)
    left = ", ".join(op for op, providers in info.kernels.items() if "torch" in providers.split("+"))
    return f"{builds} build{f'; PyTorch computes {left}' if left else ''}"


def _where(stages: Mapping[str, float]) -> str:
    """The stages that took at least a twentieth of a second, longest first."""
    long = sorted(((seconds, name) for name, seconds in stages.items() if seconds >= 0.05), reverse=True)
    return f": {', '.join(f'{name} {seconds:.1f}' for seconds, name in long)}" if long else ""


def format_bytes(number: int) -> str:
    """1536 → ``1.5 KiB``."""
    size, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"


def format_count(number: int) -> str:
    """4_700_000 → ``4.7 M``."""
    for power, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= power:
            return f"{number / power:.1f} {unit}"
    return str(number)
