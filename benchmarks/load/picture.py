"""A picture of one run: how latencies are spread, and tokens over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.load.client import Course
from gateway.load.summary import gaps, time_to_first


def draw(courses: Sequence[Course], title: str, path: Path) -> None:
    """Write ``path`` in the format of its suffix. Needs matplotlib, which the extra ``bench`` brings."""
    from matplotlib.figure import Figure

    answered = [course for course in courses if not course.error]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(title)
    first, between, rate = figure.subplots(1, 3)
    first.ecdf([time_to_first(course) * 1000 for course in answered])
    first.set(title="Time to first token", xlabel="ms", ylabel="share of requests")
    between.ecdf([gap * 1000 for course in answered for gap in gaps(course)] or [0.0])
    between.set(title="Inter-token latency", xlabel="ms", ylabel="share of gaps", xscale="log")
    began = min(course.sent for course in answered)
    times = [at - began for course in answered for at in course.chunks]
    weights = [tokens for course in answered for tokens in course.chunk_tokens()]
    bins = 60
    width = max(times) / bins
    rate.hist(times, bins=bins, range=(0, max(times)), weights=[weight / width for weight in weights])
    rate.set(title="Output", xlabel="seconds", ylabel="tokens per second")
    figure.savefig(path)
