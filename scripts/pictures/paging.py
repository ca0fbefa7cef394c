"""The block pool at four moments: two requests that begin alike, one that ends, and one that comes later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.pool_picture import EMPTY, KEPT, SHARED
from scripts.pictures import style
from scripts.pictures.engine import Run, prompt, running

BLOCKS, COLUMNS = 24, 8
SYSTEM = 48
"""Tokens that A, B and D have in common: three blocks."""
COLORS = {"A": style.STREAMS[0], "B": style.STREAMS[1], "C": style.STREAMS[2], "D": style.STREAMS[3]}


@dataclass(frozen=True)
class Moment:
    title: str
    cells: bytes
    """As ``engine.pool_picture`` has them."""
    owners: Mapping[int, str]
    """Of the cells, by the number in them."""
    tables: Mapping[str, list[int]]
    """Block tables of those that run."""


def observe() -> list[Moment]:
    shared = prompt(SYSTEM)
    with running(BLOCKS, {"max_num_batched_tokens": 256}) as run:
        moments = []
        run.start("A", shared + prompt(20, 1), 8)
        run.step()
        moments.append(_moment(run, "A has begun: 68 tokens of prompt, 5 blocks"))
        run.start("B", shared + prompt(40, 2), 40)
        run.start("C", prompt(60, 3), 40)
        run.step()
        run.step()
        moments.append(_moment(run, "B begins as A does and shares 3 blocks; C does not"))
        while "A" in _tables(run):
            run.step()
        moments.append(_moment(run, "A has ended: what it alone held is free, and kept"))
        run.start("D", shared + prompt(20, 1) + prompt(30, 4), 4)
        run.step()
        run.step()
        moments.append(_moment(run, "D goes on where A was: 4 blocks are found"))
        run.finish()
    return moments


def _tables(run: Run) -> dict[str, list[int]]:
    """Of the sequences that run, read where they are: what is drawn is what there is."""
    return {each.id: list(each.block_table) for each in run.engine._scheduler.running}


def _moment(run: Run, title: str) -> Moment:
    picture = run.engine.picture(BLOCKS)
    tables = _tables(run)
    owners = {number: name for name, table in tables.items() for block in table if (number := picture.cells[block]) > 2}
    return Moment(title, picture.cells, owners, tables)


def draw(moments: list[Moment], path: Path) -> None:
    picture = style.figure(11, 5.6)
    for axes, moment in zip(picture.subplots(2, 2).flat, moments, strict=True):
        _draw(axes, moment)
    style.save(picture, path)


def _draw(axes: Any, moment: Moment) -> None:
    from matplotlib.patches import Rectangle

    fixed = {EMPTY: style.EMPTY, KEPT: style.KEPT, SHARED: style.SHARED}
    for block, cell in enumerate(moment.cells):
        row, column = divmod(block, COLUMNS)
        color = fixed.get(cell) or COLORS[moment.owners[cell]]
        axes.add_patch(Rectangle((column, row), 0.92, 0.92, facecolor=color, edgecolor=style.SOFT, linewidth=0.8))
        label = {EMPTY: "", KEPT: "kept", SHARED: "shared"}.get(cell) or moment.owners.get(cell, "")
        ink = style.INK if cell in (EMPTY, KEPT) else "#ffffff"
        axes.text(column + 0.08, row + 0.3, str(block), fontsize=6.5, color=ink, va="center")
        axes.text(column + 0.46, row + 0.6, label, fontsize=8, color=ink, ha="center", va="center")
    rows = BLOCKS // COLUMNS
    for line, (name, table) in enumerate(sorted(moment.tables.items())):
        text = f"block table of {name}: {' '.join(map(str, table))}"
        axes.text(0, rows + 0.35 + 0.45 * line, text, fontsize=8.5, color=COLORS[name], va="center")
    axes.set(xlim=(-0.05, COLUMNS), ylim=(rows + 1.6, -0.05), title=moment.title)
    axes.title.set_fontsize(10)
    axes.set_axis_off()
