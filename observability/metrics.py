"""The metrics of a gateway: :meth:`Metrics.record` feeds every row of the table that a record feeds."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.metrics_core import Metric as Samples
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.exposition import ALLOWUTF8

from observability import vllm_names
from observability.metrics_compat import MetricsCompat
from observability.metrics_table import METRICS, Metric
from observability.records import Adapters, BuildInfo, CacheConfig, Record, RequestStats
from observability.series import Family, Take

PENDING = 64
"""Records of one kind that may wait to be counted: few enough that counting them holds up the event loop by less than
a millisecond with a hundred streams."""


class Metrics:
    """The metrics of one gateway process. Used from one thread, the event loop's."""

    def __init__(
        self, registry: CollectorRegistry, *, model: str, version: str, compat: MetricsCompat = "none"
    ) -> None:
        """``compat``: whose names are served beside ours."""
        self._registry = registry
        self._model = model
        self._compat = compat
        self._families = {metric.name: Family(metric) for metric in METRICS}
        self._plain: dict[type, _Plain] = {}
        self._labelled: dict[type, list[_Labelled]] = {}
        for metric in METRICS:
            for kind in metric.fed_by:
                if metric.own_labels:
                    feed = _Labelled(metric, self._families[metric.name], model)
                    self._labelled.setdefault(kind, []).append(feed)
                else:
                    self._plain.setdefault(kind, _Plain(model)).join(kind, metric, self._families[metric.name])
        self._exemplars = [self._families[metric.name] for metric in METRICS if metric.exemplar]
        ProcessCollector(registry=registry)
        registry.register(self)
        self.record(BuildInfo(version=version))
        self.record(Adapters())

    def record(self, record: Record, *, replica: str = "0") -> None:
        """Feed every metric that this kind of record feeds."""
        kind = type(record)
        if kind is CacheConfig:
            self._begin(replica)
        plain = self._plain.get(kind)
        if plain is not None:
            plain(record, replica)
        for feed in self._labelled.get(kind, ()):
            feed(record, replica)
        if isinstance(record, RequestStats) and record.trace_id:
            self._show(record)

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Let a gauge that no record feeds call ``read`` whenever the metrics are rendered."""
        self._families[name].number((self._model,)).read = read

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text, and its content type.

        OpenMetrics, which has exemplars, for who accepts it (a header ``Accept``), else Prometheus' plain format.
        """
        _, content_type = choose_encoder(accept)
        if content_type.startswith("application/openmetrics-text"):
            # It writes names as they are; what it would choose makes underscores of the colons of vLLM's.
            return openmetrics.generate_latest(self._registry, escaping=ALLOWUTF8), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Samples]:
        """For the registry."""
        for plain in self._plain.values():
            plain.settle()
        for family in self._families.values():
            yield family.collect()
        if self._compat == "vllm":
            yield from vllm_names.families(self._families)

    def describe(self) -> list[Samples]:
        """For the registry, which would else collect everything to learn the names."""
        return []

    def _begin(self, replica: str) -> None:
        """Let every series of a new replica stand at zero, so that a first event shows as a rise."""
        for plain in self._plain.values():
            plain.open(replica)
        for feeds in self._labelled.values():
            for feed in feeds:
                feed.begin(replica)

    def _show(self, record: RequestStats) -> None:
        """Its trace beside the buckets that its latencies fall into."""
        for family in self._exemplars:
            value = getattr(record, family.metric.exemplar)
            if value is not None:
                family.distribution((self._model,)).show(value, record.trace_id)


class _Plain:
    """All rows that one kind of record feeds and whose labels are the recorder's.

    Records wait until somebody looks or :data:`PENDING` are there, and are then counted a field at a time, which
    takes half the time of counting each when it comes.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._rows: list[_Row] = []
        self._pending: dict[str, list[Record]] = {}
        """Of each replica, as below."""
        self._takers: dict[str, list[Take]] = {}
        """In the order of the rows."""

    def join(self, kind: type, metric: Metric, family: Family) -> None:
        """Add a row; ``kind`` is the record that feeds it."""
        self._rows.append(_Row(family, _column(kind, metric)))

    def __call__(self, record: Record, replica: str) -> None:
        pending = self._pending.get(replica)
        if pending is None:
            pending = self.open(replica)
        pending.append(record)
        if len(pending) >= PENDING:
            self._count(replica)

    def open(self, replica: str) -> list[Record]:
        """Make the series of a replica."""
        known = {"model": self._model, "replica": replica}
        self._takers[replica] = [
            row.family.taker(tuple(known[label] for label in row.family.metric.labels)) for row in self._rows
        ]
        return self._pending.setdefault(replica, [])

    def settle(self) -> None:
        """Count what waits."""
        for replica in self._pending:
            self._count(replica)

    def _count(self, replica: str) -> None:
        pending = self._pending[replica]
        if pending:
            for row, take in zip(self._rows, self._takers[replica], strict=True):
                take(row.column(pending))
            pending.clear()


class _Row(NamedTuple):
    family: Family
    column: Callable[[list[Record]], list[float]]
    """The row's values in some records."""


class _Labelled:
    """One row with labels that are fields of the record."""

    def __init__(self, metric: Metric, family: Family, model: str) -> None:
        self._metric = metric
        self._family = family
        self._model = model
        self._describes = metric.kind == "gauge"
        self._takers: dict[tuple[object, ...], Take] = {}

    def __call__(self, record: Record, replica: str) -> None:
        value = getattr(record, self._metric.field) if self._metric.field else 1
        key = (replica, *(getattr(record, label) for label in self._metric.own_labels))
        if value is None or None in key:
            return
        take = self._takers.get(key)
        if take is None:
            if self._describes:
                self._forget(replica)
            take = self._takers[key] = self._taker(key)
        take((value,))

    def begin(self, replica: str) -> None:
        """Make the series of a replica, where it is known which there may be."""
        for value in self._metric.known:
            self._takers.setdefault((replica, value), self._taker((replica, value)))

    def _forget(self, replica: str) -> None:
        """Labels that describe a thing: a restart that changes them must not leave the old series behind."""
        self._takers.clear()
        if "replica" in self._metric.labels:
            self._family.forget("replica", replica)

    def _taker(self, key: tuple[object, ...]) -> Take:
        known = dict(zip(("replica", *self._metric.own_labels), map(str, key), strict=True)) | {"model": self._model}
        return self._family.taker(tuple(known[label] for label in self._metric.labels))


def _column(kind: type, metric: Metric) -> Callable[[list[Record]], list[float]]:
    """What some records of a kind have for a metric: of a field that is a list all values, of another those that
    are not None, without a field a 1 for each; for a gauge what the last of them has."""
    if not metric.field:
        return lambda records: [1] * len(records)
    read: Callable[[Any], Any] = attrgetter(metric.field)
    if metric.kind == "gauge":
        return lambda records: [read(records[-1])]
    hint = typing.get_type_hints(kind).get(metric.field)
    if typing.get_origin(hint) is list:
        return lambda records: list(chain.from_iterable(map(read, records)))
    return lambda records: [value for value in map(read, records) if value is not None]
