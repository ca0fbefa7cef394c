"""The line between ``compare`` and a library that runs in a process of its own: JSON objects, one a line.

A worker says ``{"ready": true}`` when its model is loaded. A job is ``{"streams": [{"ids": [...], "tokens": 64}, ...],
"concurrency": 8, "late": [...], "every": 4.0}``; its answer is ``{"streams": [COURSE, ...], "late": [...]}`` with
courses as ``client.Course`` has them. Imports the standard library alone, since it runs in a peer's environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer jobs until the input ends. What libraries print goes to the log, not between the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    say({"ready": True})
    for line in sys.stdin:
        say(run(json.loads(line)))


def course(sent: float, chunks: list[float], ended: float, prompt_tokens: int) -> dict[str, Any]:
    return {"sent": sent, "ended": ended, "chunks": chunks, "tokens": len(chunks), "prompt_tokens": prompt_tokens}
