"""Helpers of these tests are imported by name from this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Servers that are started now have the faults of ``faults/sitecustomize.py``. Gives the folder of the files that
    ask for some: a step hangs for ``hang``, and all take longer while there is ``slow``."""
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER / 'faults'}:{FOLDER.parents[1]}")
    monkeypatch.setenv("CHAOS_HANG", str(tmp_path / "hang"))
    monkeypatch.setenv("CHAOS_SLOW", str(tmp_path / "slow"))
    return tmp_path
