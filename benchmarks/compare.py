"""Penstock beside its peers on this machine's CPU: ``python -m benchmarks.compare --out docs/benchmarks``.

Makes the models and the peers' environments (once, under build/), measures the machine's limits, has all contenders
take turns at every cell, and writes cpu.md, cpu.json and cpu.svg. With --cells or --peers a part is measured anew; it
replaces the same part of cpu.json if the machine and its limits are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from tokenizers import Tokenizer

from benchmarks import models, processes, roofline
from benchmarks.comparison import installs, measure, ours, picture, report
from benchmarks.comparison.cells import CELLS, PHASES, SPECIAL, Cell, Phase
from benchmarks.comparison.results import OtherMachineError, Results
from benchmarks.peers import environments
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.drivers import Started, start
from benchmarks.processes import StartError
from gateway.load.client import Request
from gateway.load.prompts import Lengths, PromptMaker

BUILD = environments.ROOT / "build" / "bench"
TRIAL = 0.15
"""Share of prompts and answers that a trial keeps."""
Error = (StartError, RuntimeError, OSError, ValueError, subprocess.SubprocessError, httpx.HTTPError, psutil.Error)
"""What may go wrong with one contender and leaves the others to be measured."""


class Comparison:
    """One run: measures, and keeps what it found in a file of its own after every step."""

    def __init__(
        self, options: argparse.Namespace, machine: roofline.Machine, gauge: Callable[[], roofline.Limits]
    ) -> None:
        """``gauge`` measures what the machine can do at the moment."""
        self._options = options
        self._gauge = gauge
        self.name = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M%S")
        self._logs = BUILD / "runs" / self.name
        self._logs.mkdir(parents=True)
        about = {"date": self.name[:10], "commit": commit(), "trial": options.trial, "machine": asdict(machine)}
        self.results = Results(runs={self.name: about})

    def run(self) -> None:
        for phase in phases(self._options):
            cells = [cell for cell in phase.cells if cell.name in self._options.cells]
            if cells:
                self._phase(phase, cells)
        for name in SPECIAL:
            if name in self._options.cells and "penstock" in self._options.peers:
                with self._going_on(name):
                    self._special(name)
        for name in self._options.peers:
            with self._going_on(f"install/{name}"):
                self._install(name)
        # The limits once more: what disturbed the first measurement has probably passed.
        machine = self.results.machine(self.name).better(roofline.measure())
        self.results.runs[self.name]["machine"] = asdict(machine)
        self.results.save(self._logs / "results.json")

    def _phase(self, phase: Phase, cells: Sequence[Cell]) -> None:
        chosen = [n for n in self._options.peers if any(n in cell.contenders for cell in cells)]
        tokenizer = Tokenizer.from_file(str(self._options.models / phase.checkpoint / "tokenizer.json"))
        # Another seed each time: a server that keeps prefixes has seen none of these prompts.
        maker = PromptMaker(tokenizer, time.time_ns())
        with contextlib.ExitStack() as stack:
            started: dict[str, Started] = {}
            for name in chosen:
                with self._going_on(f"start {phase.checkpoint}/{name}"):
                    first = Request(maker.make(1, Lengths.parse("16"))[0], 4)
                    measure.wait_until_quiet(self._options.patience)
                    contender, folder = CONTENDERS[name], self._options.models
                    found = stack.enter_context(start(contender, folder, phase.checkpoint, first, self._logs))
                    self._begin(found, phase.checkpoint, maker)
                    started[name] = found
            for cell in cells:
                for number in range(self._options.rounds):
                    for name in [n for n in cell.contenders if n in started and (number == 0 or n not in cell.once)]:
                        with self._going_on(f"{cell.name}/{name}"):
                            self._turn(started[name], cell, maker)

    def _begin(self, started: Started, checkpoint: str, maker: PromptMaker) -> None:
        name = started.contender.name
        entry = {"run": self.name, "seconds": started.seconds}
        self.results.starts.setdefault(checkpoint, {})[name] = entry
        self._say(f"{name} answered on {checkpoint} after {started.seconds:.1f} s")
        with measure.awake(started):
            measure.warm_up(started, maker)

    def _turn(self, started: Started, cell: Cell, maker: PromptMaker) -> None:
        scale = TRIAL if self._options.trial else 1.0
        before = self._gauge()
        with measure.awake(started):
            result = measure.turn(started, cell, maker, patience=self._options.patience, scale=scale)
        after = self._gauge()
        result["limits"] = [asdict(before), asdict(after)]
        if result["failed"]:
            raise RuntimeError(f"{result['failed']} requests failed: {result['errors']}")
        name = started.contender.name
        entry = self.results.turns.setdefault(cell.name, {}).setdefault(name, {"run": self.name, "rounds": []})
        entry["rounds"].append(result)
        steady = result.get("steady_decode", {}).get("tokens_per_second", 0.0)
        note = "  DISTURBED" if result["disturbed"] else ""
        self._say(
            f"{cell.name:<10}{name:<15}{result['seconds']:6.1f} s  steady {steady:7.1f}  output "
            f"{result['output_tokens_per_second']:7.1f}  prompts {result['prefill_tokens_per_second']:7.1f} tok/s  "
            f"others {result['cores']['foreign']:.2f}  limits {before.read / 1e9:.1f} and {after.read / 1e9:.1f} GB/s, "
            f"{before.compute / 1e9:.0f} and {after.compute / 1e9:.0f} GFLOP/s{note}"
        )

    def _special(self, name: str) -> None:
        if name == "start":
            rounds = []
            for _ in range(3):
                measure.wait_until_quiet(self._options.patience)
                rounds.append(ours.demo_start(self._logs))
            found: dict[str, Any] = {"seconds": statistics.median(rounds), "rounds": rounds}
        else:
            found = ours.identity(self._options.models, self._logs, seed=time.time_ns())
        self.results.special[name] = {"run": self.name, **found}
        self._say(f"{name}: {found}")

    def _install(self, name: str) -> None:
        if found := installs.measure(CONTENDERS[name]):
            self.results.installs[name] = {"run": self.name, **found}

    @contextlib.contextmanager
    def _going_on(self, where: str) -> Iterator[None]:
        """What fails is kept and reported, and the rest goes on."""
        try:
            yield
        except Error as error:
            self.results.failures.append({"run": self.name, "where": where, "why": str(error)})
            self._say(f"{where} FAILED: {str(error)[:2000]}")
        self.results.save(self._logs / "results.json")

    def _say(self, text: str) -> None:
        print(f"{datetime.datetime.now(datetime.UTC):%H:%M:%S} {text}", flush=True)


def phases(options: argparse.Namespace) -> list[Phase]:
    return [replace(phase, checkpoint="S") if options.trial else phase for phase in PHASES]


def commit() -> str:
    """The checkout's commit, with + where files differ from it."""
    command = ["git", "-C", str(environments.ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def prepare(options: argparse.Namespace) -> None:
    """Everything that takes long and is made once, before anything is measured."""
    cells = [CELLS[name] for name in options.cells if name in CELLS]
    for phase in phases(options):
        for name in options.peers:
            if any(name in cell.contenders for cell in cells if cell in phase.cells):
                for checkpoint in models.CHECKPOINTS:
                    if checkpoint in (phase.checkpoint, f"{phase.checkpoint}-bf16"):
                        models.make(options.models, checkpoint)
                contender = CONTENDERS[name]
                if contender.environment:
                    environments.make(contender.environment)
                contender.prepare(options.models, phase.checkpoint)
    if "identity" in options.cells:
        models.make(options.models, "S")


def write(results: Results, folder: Path) -> None:
    results.save(folder / "cpu.json")
    picture.draw(results, folder / "cpu.svg")
    (folder / "cpu.md").write_text(report.render(results, "cpu.svg"), encoding="utf-8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    cells, peers = [*CELLS, *SPECIAL], list(CONTENDERS)
    epilog = f"cells:\n{report.contents()}\n\ncontenders:\n  {', '.join(peers)}"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True, help="folder of cpu.md, cpu.json and cpu.svg")
    parser.add_argument("--cells", nargs="+", choices=cells, default=cells, metavar="CELL")
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers, metavar="NAME", help="ours among them")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="drop what cpu.json holds")
    parser.add_argument("--prepare", action="store_true", help="make environments and models, and measure nothing")
    parser.add_argument("--report", action="store_true", help="write cpu.md and cpu.svg anew from cpu.json")
    parser.add_argument("--add", type=Path, metavar="FILE", help="merge a run's results.json, measuring nothing")
    parser.add_argument("--patience", type=float, default=30, help="seconds to wait for a quiet machine (default: 30)")
    parser.add_argument(
        "--trial",
        action="store_true",
        help="S for M, short prompts and answers, no waiting: does all of it run?",
    )
    parser.add_argument("--models", type=Path, default=BUILD / "models", help="where checkpoints are made")
    options = parser.parse_args(arguments)
    if options.trial:
        options.patience = 0.0
    return options


def main() -> None:
    options = parse()
    processes.end_at_signals()
    path = options.out / "cpu.json"
    results = Results.load(path) if path.exists() and not options.fresh else Results()
    if options.report or options.add:
        if options.add:
            results.merge(Results.load(options.add))
        write(results, options.out)
        return
    if any(about["trial"] != options.trial for about in results.runs.values()):
        raise SystemExit(f"a trial and a measurement do not mix in {path}: --fresh drops what it holds")
    prepare(options)
    if options.prepare:
        return
    measure.wait_until_quiet(options.patience)
    machine = roofline.measure()
    print(f"read {machine.limits.read / 1e9:.1f} GB/s, {machine.limits.compute / 1e9:.0f} GFLOP/s", flush=True)
    try:
        results.check_same_machine(machine)
    except OtherMachineError as error:
        raise SystemExit(f"{error}. --fresh drops what {path} holds.") from error
    with roofline.gauge() as gauge:
        comparison = Comparison(options, machine, gauge)
        comparison.run()
    try:
        results.merge(comparison.results)
    except OtherMachineError as error:
        raise SystemExit(
            f"{error}. {BUILD / 'runs' / comparison.name} keeps the run; --fresh --add takes it."
        ) from error
    write(results, options.out)
    print(f"run {comparison.name}: {options.out / 'cpu.md'}")


if __name__ == "__main__":
    main()
