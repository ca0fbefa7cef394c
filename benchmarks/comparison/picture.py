"""The report's picture: steady decode beside the roofline, and rates end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.comparison.cells import CELLS
from benchmarks.comparison.results import Results
from benchmarks.peers.contenders import CONTENDERS

OURS, PEERS, ROOF = "#0b6e6e", "#a9adb4", "#b3541e"
BATCHES = (1, 8, 32)


def draw(results: Results, path: Path) -> None:
    """Write ``path`` in the format of its suffix; the same results give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    cells = [f"decode-{batch}" for batch in BATCHES]
    names = [name for name in CELLS[cells[-1]].contenders if any(results.run_of(cell, name) for cell in cells)]
    with matplotlib.rc_context({"svg.hashsalt": "penstock"}):
        figure = Figure(figsize=(11, 7.5), layout="constrained")
        axes = figure.subplots(2, len(cells), sharey=True)
        for column, (cell, batch) in enumerate(zip(cells, BATCHES, strict=True)):
            _bars(axes[0][column], names, [results.steady(cell, name) for name in names])
            _bars(axes[1][column], names, [results.output_rate(cell, name) for name in names])
            axes[0][column].set_title(f"steady decode, {batch} at a time", fontsize=10)
            axes[1][column].set_title(f"end to end, {batch} at a time", fontsize=10)
            if roof := results.roof(cell, "penstock"):
                _line(axes[0][column], roof.tokens_per_second)
        axes[0][0].invert_yaxis()
        figure.suptitle("Model M (387 M parameters), tokens per second; dashed: the roofline of float32")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


def _bars(axis: Any, names: list[str], values: list[float | None]) -> None:
    labels = [CONTENDERS[name].label for name in names]
    colors = [OURS if CONTENDERS[name].is_ours else PEERS for name in names]
    bars = axis.barh(labels, [value or 0.0 for value in values], color=colors)
    axis.bar_label(bars, ["" if value is None else f"{value:.3g}" for value in values], padding=2)
    axis.margins(x=0.18)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", left=False)


def _line(axis: Any, value: float) -> None:
    axis.axvline(value, color=ROOF, linestyle="--", linewidth=1)
