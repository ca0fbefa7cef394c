"""What two scrapes of ``/metrics`` say of the time between them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from gateway.terminal.errors import ServerError

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Scrape:
    """All samples of one moment, by name."""

    at: float
    """Monotonic seconds."""
    samples: Mapping[str, list[tuple[Labels, float]]]

    @classmethod
    def parse(cls, text: str, at: float) -> Scrape:
        """Raises ``ServerError`` for what is no metrics page."""
        samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    samples[sample.name].append((sample.labels, sample.value))
        except ValueError as error:
            raise ServerError("the server's /metrics cannot be read") from error
        return cls(at, samples)

    def sum(self, name: str, **labels: str) -> float:
        """Of the samples that carry these labels; 0 of none."""
        found = self.samples.get(name, ())
        return sum(value for has, value in found if labels.items() <= has.items())

    def values(self, name: str, label: str) -> list[str]:
        """Of a label, in order."""
        return sorted({has[label] for has, _ in self.samples.get(name, ()) if label in has})


def rate(before: Scrape, now: Scrape, name: str, **labels: str) -> float:
    """Of a counter, a second; 0 where it began anew."""
    seconds = now.at - before.at
    return max(0.0, now.sum(name, **labels) - before.sum(name, **labels)) / seconds if seconds > 0 else 0.0


def quantile(before: Scrape, now: Scrape, name: str, share: float) -> float | None:
    """Of what a histogram has counted in between; None of nothing. Within a bucket by a straight line."""
    counts: dict[float, float] = defaultdict(float)
    for scrape, sign in ((now, 1), (before, -1)):
        for labels, value in scrape.samples.get(f"{name}_bucket", ()):
            counts[float(labels["le"])] += sign * value
    buckets = sorted(counts.items())
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (wanted - below) / max(count - below, 1e-9)
        lower, below = bound, count
    return None
