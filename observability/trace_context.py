"""W3C's Trace Context: ``00-<trace id>-<span id>-<flags>``, the header by which a trace crosses processes."""

from __future__ import annotations

import re

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_KNOWN_VERSION = 55
"""Characters of version 00, which has nothing after the flags."""
_SAMPLED = 1


def sampled(header: str) -> str:
    """A ``traceparent`` header, if it is valid and its trace is recorded by whoever sent it; else empty.

    Of a version that we do not know, what we know of it counts.
    """
    if not _TRACEPARENT.fullmatch(header) or (header.startswith("00") and len(header) != _KNOWN_VERSION):
        return ""
    known = header[:_KNOWN_VERSION]
    return known if int(known[-2:], 16) & _SAMPLED else ""


def trace_id_of(traceparent: str) -> str:
    """32 hexadecimal digits; empty for an empty ``traceparent``."""
    return traceparent[3:35]
