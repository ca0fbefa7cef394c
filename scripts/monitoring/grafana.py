"""Dashboards in Grafana's JSON, from a few words for each panel. The file is what Grafana 12 reads and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA = 39

Kind = Literal["timeseries", "stat", "heatmap"]


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and what its series are called, with labels in ``{{}}``."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What one picture shows."""

    title: str
    queries: Sequence[Query]
    help: str
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 7
    stacked: bool = False
    objective: float | None = None
    """A share of 1: what is less is red."""
    maximum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of the dashboard, from the values of a metric's label."""

    name: str
    metric: str

    @property
    def query(self) -> str:
        return f"label_values({self.metric}, {self.name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page: rows of panels, each row under its title."""

    title: str
    uid: str
    help: str
    rows: Mapping[str, Sequence[Panel]]
    variables: Sequence[Variable] = (Variable(name="model", metric="penstock_build_info"),)

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows.values() for panel in row]

    def json(self) -> str:
        """As Grafana is provisioned with it."""
        board = {
            "uid": self.uid,
            "title": f"Penstock / {self.title}",
            "description": self.help,
            "tags": ["penstock"],
            "editable": False,
            "graphTooltip": 1,
            "refresh": "10s",
            "schemaVersion": SCHEMA,
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [_datasource(), *map(_variable, self.variables)]},
            "links": [
                {"type": "dashboards", "title": "Penstock", "tags": ["penstock"], "asDropdown": True, "keepTime": True}
            ],
            "panels": self._laid_out(),
        }
        return json.dumps(board, indent=1, ensure_ascii=False) + "\n"

    def _laid_out(self) -> list[dict[str, Any]]:
        """Panels from left to right and from top to bottom."""
        shown: list[dict[str, Any]] = []
        top = 0
        for title, panels in self.rows.items():
            shown.append(
                {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, top, COLUMNS, 1)}
            )
            top, left, tallest = top + 1, 0, 0
            for panel in panels:
                if left + panel.width > COLUMNS:
                    top, left, tallest = top + tallest, 0, 0
                shown.append(_panel(panel, _place(left, top, panel.width, panel.height)))
                left, tallest = left + panel.width, max(tallest, panel.height)
            top += tallest
        return [{"id": number, **each} for number, each in enumerate(shown, 1)]


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "definition": variable.query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    heatmap = panel.kind == "heatmap"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [_target(number, query, heatmap=heatmap) for number, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": {} if heatmap else _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _target(number: int, query: Query, *, heatmap: bool) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + number),
        "datasource": SOURCE,
        "expr": query.expression,
        "legendFormat": "{{le}}" if heatmap else query.legend,
        "format": "heatmap" if heatmap else "time_series",
        "exemplar": "histogram_quantile" in query.expression,
        "range": True,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.objective is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.objective}]
        # A share of no events is no number. Without a count there is no data: that is another matter.
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}, "decimals": 2, "noValue": "no traffic"}
    elif panel.kind == "stat":
        defaults["color"] = {"mode": "fixed", "fixedColor": "text"}  # by default Grafana has what is above 80 red
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 8,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "stat":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"]},
                "colorMode": "background" if panel.objective is not None else "value",
                "graphMode": "area",
            }
        case "heatmap":
            return {
                "calculate": False,
                "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Viridis", "steps": 64},
                "yAxis": {"unit": panel.unit},
                "tooltip": {"mode": "single", "yHistogram": True},
                "exemplars": {"color": "rgba(255,0,255,0.7)"},
            }
        case _:
            return {
                "legend": {"displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
