"""Results of one or several runs on one machine: kept as JSON, merged, and asked for figures."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.comparison.cells import CELLS
from benchmarks.models import SHAPES
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.roofline import Limits, Machine, Roof, decode_roof


class OtherMachineError(Exception):
    """Results of another machine are no part of a comparison."""


@dataclass
class Results:
    """Everything that a report is made of. A ``run`` is the name of one run of the command."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Run → when, of which commit, and ``machine`` with its limits as measured in it."""
    turns: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Cell → contender → ``run`` and ``rounds``, each as ``measure.turn`` gives it."""
    starts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Checkpoint → contender → ``run`` and ``seconds``."""
    installs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Contender → ``run``, ``version`` and ``bytes``."""
    special: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``start`` and ``identity``: ``run`` and what was found."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """What did not run: ``run``, ``where`` and ``why``."""

    @classmethod
    def load(cls, path: Path) -> Results:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def machine(self, run: str) -> Machine:
        return Machine(**self.runs[run]["machine"])

    def check_same_machine(self, machine: Machine) -> None:
        """Raises OtherMachineError where ``machine`` is not that of every run here."""
        for run in self.runs:
            if not self.machine(run).is_same(machine):
                raise OtherMachineError(
                    f"run {run} was on another machine, or a busier one: {_said(self.machine(run).limits)} there, "
                    f"{_said(machine.limits)} now"
                )

    def merge(self, newer: Results) -> None:
        """Take what ``newer`` measured in place of the same here. Raises OtherMachineError, and then takes nothing."""
        for run in newer.runs:
            self.check_same_machine(newer.machine(run))
        self.runs |= newer.runs
        for mine, its in ((self.turns, newer.turns), (self.starts, newer.starts)):
            for name, found in its.items():
                mine[name] = mine.get(name, {}) | found
        self.installs |= newer.installs
        self.special |= newer.special
        self.failures = newer.failures + [f for f in self.failures if f["where"] not in newer.places()]
        used = self._used_runs()
        self.runs = {run: about for run, about in self.runs.items() if run in used}

    def places(self) -> set[str]:
        """Where something was measured or failed: ``cell/contender``."""
        return {f"{cell}/{name}" for cell, found in self.turns.items() for name in found} | {
            failure["where"] for failure in self.failures
        }

    def _used_runs(self) -> set[str]:
        tables = [*self.turns.values(), *self.starts.values(), self.installs, self.special]
        return {entry["run"] for table in tables for entry in table.values()} | {f["run"] for f in self.failures}

    # --- figures ---

    def run_of(self, cell: str, contender: str) -> str | None:
        entry = self.turns.get(cell, {}).get(contender)
        return entry["run"] if entry else None

    def _kept(self, cell: str, contender: str) -> list[dict[str, Any]]:
        """Rounds that count: undisturbed ones alone where there are any."""
        rounds = self.turns.get(cell, {}).get(contender, {}).get("rounds", [])
        kept = [one for one in rounds if not one["disturbed"]] or rounds
        return [one for one in kept if not one["failed"]]

    def rounds(self, cell: str, contender: str, *path: str) -> list[float]:
        """One figure, such as ``itl_ms, p99``, of each round that counts."""
        values = (_figure(one, *path) for one in self._kept(cell, contender))
        return [value for value in values if value is not None]

    def figure(self, cell: str, contender: str, *path: str) -> float | None:
        """The median over rounds; None where nothing was measured."""
        values = self.rounds(cell, contender, *path)
        return statistics.median(values) if values else None

    def is_disturbed(self, cell: str, contender: str) -> bool:
        rounds = self.turns.get(cell, {}).get(contender, {}).get("rounds", [])
        return bool(rounds) and all(one["disturbed"] for one in rounds)

    def steady(self, cell: str, contender: str) -> float | None:
        return self.figure(cell, contender, "steady_decode", "tokens_per_second")

    def output_rate(self, cell: str, contender: str) -> float | None:
        return self.figure(cell, contender, "output_tokens_per_second")

    def roof(self, cell: str, contender: str) -> Roof | None:
        """With the machine's limits as they were at the best moment of the run."""
        run = self.run_of(cell, contender)
        return None if run is None else self._roof(cell, contender, self.machine(run).limits)

    def _roof(self, cell: str, contender: str, limits: Limits) -> Roof:
        shape = SHAPES["S" if cell.startswith("small") else "M"]
        spec = CELLS[cell]
        return decode_roof(limits, shape, CONTENDERS[contender].dtype, spec.concurrency, spec.context)

    def limits(self, cell: str, contender: str) -> list[Limits]:
        """Of each round that counts: the better of before and after it."""
        return [Limits(**one["limits"][0]).better(Limits(**one["limits"][1])) for one in self._kept(cell, contender)]

    def share(self, cell: str, contender: str) -> float | None:
        """Of the roof, reached by steady decoding: each round of the limits beside it, the median over rounds."""
        shares = []
        for one, limits in zip(self._kept(cell, contender), self.limits(cell, contender), strict=True):
            if rate := _figure(one, "steady_decode", "tokens_per_second"):
                shares.append(rate / self._roof(cell, contender, limits).tokens_per_second)
        return statistics.median(shares) if shares else None

    def memory(self, contender: str, kind: str, checkpoint: str = "M") -> float | None:
        """The most bytes, ``resident`` after a cell or ``peak``, over the cells of a checkpoint."""
        small = checkpoint == "S"
        values = [
            value
            for cell in self.turns
            if cell.startswith("small") == small
            for value in self.rounds(cell, contender, "memory", kind)
        ]
        return max(values, default=None)


def _figure(one: dict[str, Any], *path: str) -> float | None:
    value: Any = one
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return None if value is None else float(value)


def _said(limits: Limits) -> str:
    return f"{limits.read / 1e9:.1f} GB/s and {limits.compute / 1e9:.0f} GFLOP/s"
