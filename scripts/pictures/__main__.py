"""Draw the pictures of the documentation, each from a real run: ``python -m scripts.pictures [NAME …]``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks import processes
from scripts.pictures import determinism, paging, recovery, scheduler

FOLDER = Path(__file__).parents[2] / "docs/pictures"
PICTURES: dict[str, Callable[[Path], None]] = {
    "scheduler": lambda path: scheduler.draw(scheduler.observe(), path),
    "paging": lambda path: paging.draw(paging.observe(), path),
    "determinism": lambda path: determinism.draw(determinism.observe(), path),
    "recovery": lambda path: recovery.draw(recovery.observe(), path),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all where there is none")
    names = parser.parse_args().names or list(PICTURES)
    if unknown := sorted(set(names) - set(PICTURES)):
        parser.error(f"there is no picture {unknown[0]}; there are {', '.join(PICTURES)}")
    processes.end_at_signals()
    for name in names:
        PICTURES[name](FOLDER / f"{name}.svg")
        print(f"docs/pictures/{name}.svg")


if __name__ == "__main__":
    main()
