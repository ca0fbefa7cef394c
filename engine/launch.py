"""What an engine process is told on its standard input."""

from __future__ import annotations

import msgspec

from engine.config import EngineConfig


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One line of JSON."""

    endpoint: str
    """ZeroMQ endpoint that the gateway has bound, for this incarnation alone."""
    epoch: int
    """Number of the incarnation, for its name and log."""
    config: EngineConfig
    standby: bool = False
    """Load the weights, then wait for ``Serve``."""
    record: int | None = None
    """Inherited descriptor of the memory for a flight record; None where nobody reads one."""
