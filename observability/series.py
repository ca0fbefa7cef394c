"""The values behind the metrics, cheap to record: a step of a small model takes a millisecond, and has dozens of them.

One thread records and renders, so nothing is locked; prometheus-client writes the text.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric as Samples
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from observability.metrics_table import PREFIX, Metric

Take = Callable[[Sequence[float]], None]
"""Takes values, in the order in which they came."""
Labels = Mapping[str, str]


class Number:
    """A counter's value, or a gauge's."""

    __slots__ = ("read", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.read: Callable[[], float] = lambda: self.value

    def add(self, amounts: Sequence[float]) -> None:
        self.value += sum(amounts)

    def set(self, values: Sequence[float]) -> None:
        """To the last of them."""
        self.value = values[-1]


class Distribution:
    """A histogram's buckets, and for each the last value there that was of a traced request."""

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.total = 0.0

    def observe(self, values: Sequence[float]) -> None:
        counts, bounds = self.counts, self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.total += sum(values)

    def show(self, value: float, trace_id: str) -> None:
        """Have the trace shown beside the bucket of ``value``, which is counted elsewhere."""
        self.exemplars[bisect_left(self._bounds, value)] = Exemplar({"trace_id": trace_id}, value, time.time())


class Family:
    """All series of one row of the table, by their label values in the order of the row."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._series: dict[tuple[str, ...], Number | Distribution] = {}
        self._bounds = [floatToGoString(bound) for bound in (*metric.buckets, float("inf"))]

    def number(self, values: tuple[str, ...]) -> Number:
        """The series with these label values, from now on shown."""
        series = self._at(values)
        assert isinstance(series, Number)
        return series

    def distribution(self, values: tuple[str, ...]) -> Distribution:
        series = self._at(values)
        assert isinstance(series, Distribution)
        return series

    def taker(self, values: tuple[str, ...]) -> Take:
        """What feeds the series with these label values."""
        if self.metric.kind == "histogram":
            return self.distribution(values).observe
        number = self.number(values)
        return number.set if self.metric.kind == "gauge" else number.add

    def forget(self, label: str, value: str) -> None:
        """Drop the series with this value of the label."""
        at = self.metric.labels.index(label)
        self._series = {key: series for key, series in self._series.items() if key[at] != value}

    def collect(self, name: str = "", renamed: Mapping[str, str] | None = None, more: Labels | None = None) -> Samples:
        """As prometheus-client writes it; under another ``name``, with labels ``renamed`` and ``more`` of them.

        A label that is renamed to nothing is left out: series that differ in it alone are summed up.
        """
        full = name or PREFIX + self.metric.name
        samples = Samples(
            full.removesuffix("_total") if self.metric.kind == "counter" else full, self.metric.help, self.metric.kind
        )
        for labels, series in self._labelled(renamed or {}, more or {}):
            if isinstance(series, Number):
                samples.add_sample(full, dict(labels), series.read())
            else:
                self._add_buckets(samples, full, labels, series)
        return samples

    def _labelled(self, renamed: Mapping[str, str], more: Labels) -> Iterator[tuple[Labels, Number | Distribution]]:
        names = [renamed.get(label, label) for label in self.metric.labels]
        if all(names):
            for values, series in self._series.items():
                yield {**dict(zip(names, values, strict=True)), **more}, series
            return
        sums: dict[tuple[tuple[str, str], ...], Number] = {}
        for values, series in self._series.items():
            assert isinstance(series, Number)
            kept = tuple((label, value) for label, value in zip(names, values, strict=True) if label)
            sums.setdefault(kept, Number()).add((series.read(),))
        for kept, total in sums.items():
            yield {**dict(kept), **more}, total

    def _add_buckets(self, samples: Samples, name: str, labels: Labels, series: Distribution) -> None:
        count = 0
        for index, bound in enumerate(self._bounds):
            count += series.counts[index]
            exemplar = series.exemplars.get(index)
            samples.add_sample(f"{name}_bucket", {**labels, "le": bound}, count, exemplar=exemplar)
        samples.add_sample(f"{name}_count", dict(labels), count)
        samples.add_sample(f"{name}_sum", dict(labels), series.total)

    def _at(self, values: tuple[str, ...]) -> Number | Distribution:
        series = self._series.get(values)
        if series is None:
            histogram = self.metric.kind == "histogram"
            series = self._series[values] = Distribution(self.metric.buckets) if histogram else Number()
        return series
