"""From the courses of requests to figures: latencies, rates, steady decode, goodput."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.load.client import Course

LIMITS = ("ttft", "itl", "tpot", "e2e")


def gaps(course: Course) -> list[float]:
    """Seconds between successive chunks."""
    return [later - earlier for earlier, later in itertools.pairwise(course.chunks)]


def time_to_first(course: Course) -> float:
    return course.chunks[0] - course.sent


def time_per_token(course: Course) -> float | None:
    """Seconds per output token after the first; None for a single one."""
    return (course.chunks[-1] - course.chunks[0]) / (course.tokens - 1) if course.tokens > 1 else None


def duration(course: Course) -> float:
    return course.ended - course.sent


def percentile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the two nearest; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """p50, p90, p99 and mean, in milliseconds."""
    values = [value * 1000 for value in seconds]
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    mean = statistics.fmean(values) if values else 0.0
    return {name: percentile(values, share) for name, share in shares.items()} | {"mean": mean}


@dataclass(frozen=True)
class Slo:
    """Limits in milliseconds that an answer must keep to count as good."""

    limits: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> Slo:
        """``ttft=500,itl=100``. Raises ValueError for another name or what is no number."""
        limits = {}
        for part in text.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            if name not in LIMITS:
                raise ValueError(f"{name!r} is none of {', '.join(LIMITS)}")
            try:
                limits[name] = float(value)
            except ValueError:
                raise ValueError(f"{part.strip()!r}: write milliseconds, as in {name}=500") from None
        return cls(limits)

    def met_by(self, course: Course) -> bool:
        """``itl`` holds for the 99th percentile of the answer's own gaps. A failed request is never good."""
        if course.error:
            return False
        found = {
            "ttft": time_to_first(course),
            "itl": percentile(gaps(course), 0.99),
            "tpot": time_per_token(course) or 0.0,
            "e2e": duration(course),
        }
        return all(found[name] * 1000 <= limit for name, limit in self.limits.items())


def steady_decode(courses: Sequence[Course], streams: int) -> dict[str, float] | None:
    """The rate while ``streams`` answers are being written at once, and nothing waits for its first token.

    A period is steady from the moment that ``streams`` answers are between their first and their last chunk until the
    first of them ends. In a period each answer's rate is the tokens of its chunks there but the first, divided by the
    time from that first one to the last: an answer's own clock, so that a period's edges cut no step in two. Rates are
    added over answers, and periods are weighted by their length. None: there is none.
    """
    answers = [course for course in courses if len(course.chunks) > 1]
    changes = sorted([(c.chunks[0], 1) for c in answers] + [(c.chunks[-1], -1) for c in answers])
    under_way, since, periods = 0, 0.0, []
    for at, change in changes:
        if under_way == streams:
            periods.append((since, at))
        under_way += change
        since = at
    weighted = seconds = 0.0
    for begin, end in periods:
        rates = [rate for course in answers if (rate := _rate(course, begin, end)) is not None]
        if len(rates) == streams:
            weighted += sum(rates) * (end - begin)
            seconds += end - begin
    if not seconds:
        return None
    return {"tokens_per_second": weighted / seconds, "seconds": seconds, "streams": streams}


def _rate(course: Course, begin: float, end: float) -> float | None:
    """Tokens per second of one answer in a period; None where it is not being written or has too few chunks there."""
    if course.chunks[0] > begin or course.chunks[-1] < end:
        return None
    chunks = zip(course.chunks, course.chunk_tokens(), strict=True)
    inside = [(at, tokens) for at, tokens in chunks if begin <= at <= end]
    if len(inside) < 3:
        return None
    return sum(tokens for _, tokens in inside[1:]) / (inside[-1][0] - inside[0][0])


def summarize(courses: Sequence[Course], streams: int | None, slo: Slo | None = None) -> dict[str, Any]:
    """All figures of one run: rates in tokens a second, latencies in milliseconds. ``streams``: of a closed loop."""
    answered = [course for course in courses if not course.error]
    failures = [course.error for course in courses if course.error]
    result: dict[str, Any] = {"requests": len(courses), "failed": len(failures), "errors": sorted(set(failures))[:3]}
    if not answered:
        return result
    seconds = max(course.ended for course in courses) - min(course.sent for course in courses)
    output = sum(course.tokens for course in answered)
    prompt = sum(course.prompt_tokens or 0 for course in answered)
    result |= {
        "seconds": seconds,
        "output_tokens": output,
        "prompt_tokens": prompt,
        "cached_tokens": sum(course.cached_tokens for course in answered),
        "output_tokens_per_second": output / seconds,
        "input_tokens_per_second": prompt / seconds,
        "requests_per_second": len(answered) / seconds,
        "chunks": sum(len(course.chunks) for course in answered),
        "ttft_ms": spread(map(time_to_first, answered)),
        "itl_ms": spread(gap for course in answered for gap in gaps(course)),
        "tpot_ms": spread(value for course in answered if (value := time_per_token(course)) is not None),
        "e2e_ms": spread(map(duration, answered)),
    }
    if streams and (steady := steady_decode(answered, streams)):
        result["steady_decode"] = steady
    if slo:
        good = sum(map(slo.met_by, courses))
        result["goodput"] = {
            "slo_ms": dict(slo.limits),
            "requests_per_second": good / seconds,
            "share": good / len(courses),
        }
    return result
