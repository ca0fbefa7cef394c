"""The report's picture: steady decode beside the roofline, and rates end to end."""

from __future__ import annotations

from pathlib import Path

from benchmarks.comparison.cells import CELLS
from benchmarks.comparison.results import Results
from benchmarks.peers.contenders import CONTENDERS

OURS, PEERS = ("#0b6e6e", "#3f9c9c", "#7cc2c2"), ("#8a8f98", "#a9adb4", "#c3c6cb", "#d9dbde", "#e8e9eb")
BATCHES = (1, 8, 32)


def draw(results: Results, path: Path) -> None:
    """Write ``path`` in the format of its suffix; the same results give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "penstock"
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, len(BATCHES))
    names = list(CELLS["decode-32"].contenders)
    colors = dict(zip([n for n in names if CONTENDERS[n].is_ours], OURS, strict=False))
    colors |= dict(zip([n for n in names if not CONTENDERS[n].is_ours], PEERS, strict=False))
    for column, batch in enumerate(BATCHES):
        cell = f"decode-{batch}"
        for row, (title, rate) in enumerate((("steady decode", results.steady), ("end to end", results.output_rate))):
            axis = axes[row][column]
            found = [(name, value) for name in names if (value := rate(cell, name)) is not None]
            axis.barh(
                [CONTENDERS[n].label for n, _ in found], [v for _, v in found], color=[colors[n] for n, _ in found]
            )
            axis.bar_label(axis.containers[0], fmt="%.0f", padding=2)
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.set_title(f"{title}, {batch} at a time")
            axis.set_xlabel("tokens per second")
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(axis="y", labelleft=column == 0, left=False)
            if row == 0 and (roof := results.roof(cell, "penstock")):
                axis.axvline(roof.tokens_per_second, color="#b3541e", linestyle="--", linewidth=1)
                axis.annotate("float32 roofline", (roof.tokens_per_second, 1.0), xycoords=("data", "axes fraction"),
                              rotation=90, va="top", ha="right", fontsize=7, color="#b3541e")  # fmt: skip
    figure.suptitle("Model M (387 M parameters)")
    figure.savefig(path, metadata={"Date": None})
