"""Helpers of these tests are imported by name from this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Servers that are started now have the faults of ``faults/sitecustomize.py``; gives the file that lets a step
    hang."""
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER / 'faults'}:{FOLDER.parents[1]}")
    monkeypatch.setenv("CHAOS_HANG", str(tmp_path / "hang"))
    return tmp_path / "hang"
