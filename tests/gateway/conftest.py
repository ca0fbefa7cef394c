"""Helpers that several test folders of the gateway share are imported by name from this folder."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("completion", ""):
    sys.path.insert(0, str(Path(__file__).parent / folder))
