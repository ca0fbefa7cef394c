"""The metrics of a gateway: :meth:`Metrics.record` feeds every row of the table that a record feeds."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.metrics_core import Metric as Samples
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.exposition import ALLOWUTF8

from observability import vllm_names
from observability.metrics_compat import MetricsCompat
from observability.metrics_table import METRICS, Metric
from observability.records import Adapters, BuildInfo, CacheConfig, Record, RequestStats
from observability.series import Family


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
    """All rows that one kind of record feeds and whose labels are the recorder's: the fields are read at once."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._rows: list[tuple[Family, bool]] = []
        self._fields: list[str] = []
        self._read: Callable[[Any], tuple[Any, ...]] = lambda _: ()
        self._adders: dict[str, list[Callable[..., None]]] = {}
        """Of each replica, in the order of the rows."""

    def join(self, kind: type, metric: Metric, family: Family) -> None:
        """Add a row; ``kind`` is the record that feeds it."""
        self._rows.append((family, _is_list(kind, metric.field)))
        self._fields.append(metric.field)
        fields = self._fields
        if not all(fields):
            self._read = lambda record: tuple(getattr(record, name) if name else 1 for name in fields)
        elif len(fields) == 1:
            read = attrgetter(fields[0])
            self._read = lambda record: (read(record),)
        else:
            self._read = attrgetter(*fields)

    def __call__(self, record: Record, replica: str) -> None:
        adders = self._adders.get(replica) or self.open(replica)
        for add, value in zip(adders, self._read(record), strict=True):
            if value is not None:
                add(value)

    def open(self, replica: str) -> list[Callable[..., None]]:
        """Make the series of a replica."""
        known = {"model": self._model, "replica": replica}
        self._adders[replica] = adders = [
            family.adder(tuple(known[label] for label in family.metric.labels), several=several)
            for family, several in self._rows
        ]
        return adders


class _Labelled:
    """One row with labels that are fields of the record."""

    def __init__(self, metric: Metric, family: Family, model: str) -> None:
        self._metric = metric
        self._family = family
        self._model = model
        self._describes = metric.kind == "gauge"
        self._adders: dict[tuple[object, ...], Callable[..., None]] = {}

    def __call__(self, record: Record, replica: str) -> None:
        value = getattr(record, self._metric.field) if self._metric.field else 1
        key = (replica, *(getattr(record, label) for label in self._metric.own_labels))
        if value is None or None in key:
            return
        add = self._adders.get(key)
        if add is None:
            if self._describes:
                self._forget(replica)
            add = self._adders[key] = self._adder(key)
        add(value)

    def begin(self, replica: str) -> None:
        """Make the series of a replica, where it is known which there may be."""
        for value in self._metric.known:
            self._adders.setdefault((replica, value), self._adder((replica, value)))

    def _forget(self, replica: str) -> None:
        """Labels that describe a thing: a restart that changes them must not leave the old series behind."""
        self._adders.clear()
        if "replica" in self._metric.labels:
            self._family.forget("replica", replica)

    def _adder(self, key: tuple[object, ...]) -> Callable[..., None]:
        known = dict(zip(("replica", *self._metric.own_labels), map(str, key), strict=True)) | {"model": self._model}
        return self._family.adder(tuple(known[label] for label in self._metric.labels))


def _is_list(kind: type, field: str) -> bool:
    return typing.get_origin(typing.get_type_hints(kind).get(field)) is list
