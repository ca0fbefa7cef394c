"""Write the files that come from code: pages of the documentation, Grafana's dashboards and Prometheus' rules.

Run by ``make docs``; ``make check`` runs it with ``--check``, which only compares and fails where a file is stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.api_page import api_page
from scripts.cli_page import cli_page
from scripts.metrics_page import metrics_page
from scripts.models_page import models_page
from scripts.monitoring.boards import DASHBOARDS
from scripts.monitoring.rules import alerts_file

ROOT = Path(__file__).parents[1]

PAGES: Mapping[str, Callable[[], str]] = {
    "docs/cli.md": cli_page,
    "docs/metrics.md": metrics_page,
    "docs/api.md": api_page,
    "docs/architectures.md": models_page,
    "observability/alerts.yml": alerts_file,
    **{f"observability/grafana/dashboards/{board.title.lower()}.json": board.json for board in DASHBOARDS},
}


def is_stale(name: str) -> bool:
    """Whether a file differs from what the code says."""
    file = ROOT / name
    return not file.is_file() or file.read_text(encoding="utf-8") != PAGES[name]()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 where a file is stale")
    if parser.parse_args().check:
        stale = [name for name in PAGES if is_stale(name)]
        for name in stale:
            print(f"{name} is not what the code says; run `make docs`", file=sys.stderr)
        return int(bool(stale))
    for name, write in PAGES.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(write(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
