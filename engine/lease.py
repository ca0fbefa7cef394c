"""Lease: how long an engine goes on without a sign of life from its gateway.

A gateway that dies lets go of the engine's standard input, which ends it at once. What that cannot show is a gateway
that is stopped, or out of reach. Its engine would hold memory and a device for as long as nobody comes back.
"""

from __future__ import annotations


class Lease:
    """Time counts in looks, of which each adds two looks' worth at most.

    So a time in which this process did not run either counts once: a suspended machine, a debugger, a long import. What
    the gateway said meanwhile is still to be read.
    """

    def __init__(self, seconds: float, look: float) -> None:
        """``look``: seconds between two calls of ``passed``, as intended."""
        self.seconds = seconds
        self._longest = 2 * look
        self._silent = 0.0

    def heard(self) -> None:
        """The gateway has said something. For any thread."""
        self._silent = 0.0

    def passed(self, seconds: float) -> bool:
        """Time went by; whether the lease has ended."""
        self._silent += min(seconds, self._longest)
        return self._silent > self.seconds
