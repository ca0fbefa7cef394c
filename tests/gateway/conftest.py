"""Helpers that several test folders of the gateway share are imported by name from this folder."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# A busy machine is no reason for a test to fail.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")
