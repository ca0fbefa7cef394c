"""What the live page and ``penstock top`` read of ``/metrics`` is what the server counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from observability.metrics_table import METRICS

GATEWAY = Path(__file__).parents[2] / "gateway"


@pytest.mark.parametrize("file", ["static/live.js", "terminal/top.py"])
def test_every_metric_that_is_read_exists(file: str) -> None:
    named = set(re.findall(r"penstock_(\w+)", (GATEWAY / file).read_text()))
    assert len(named) > 5
    assert named <= {metric.name for metric in METRICS}
