"""What all pictures share: colours, and SVG whose bytes follow from what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STREAMS = ("#1f6593", "#2f8f63", "#b97a10", "#8a4f9e", "#3f9aa8", "#a14a4a", "#5c6bc0", "#6d7a2a")
PROMPT, DECODE, SHARED, KEPT, EMPTY, INK, SOFT = (
    "#e9a23b",
    "#1f6593",
    "#c2456f",
    "#c9d6df",
    "#ffffff",
    "#15232e",
    "#7d94a5",
)


def figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches. Needs the extra ``bench``."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(picture: Any, path: Path) -> None:
    """As SVG, with text as text; in the same environment the same picture gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "penstock", "svg.fonttype": "none", "font.family": "sans-serif"}):
        picture.savefig(path, metadata={"Date": None})


def plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
