"""Whose names of metrics may be served beside ours; in a file of its own, so that settings load nothing else."""

from __future__ import annotations

from typing import Literal

MetricsCompat = Literal["none", "vllm"]
