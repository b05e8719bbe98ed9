"""Panels of a dashboard, as Grafana's JSON. `__main__` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Panel", "Query", "Row", "dashboard"]

_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_COLUMNS = 24
_GREEN, _YELLOW, _RED = "green", "yellow", "red"
TAG = "mse-grad"


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expression: PromQL that Prometheus 2.42 understands.
        legend: Name of a series; labels in double braces.
    """

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: Name of the quantity.
        text: Definition, and what to do about bad values; Grafana shows it behind the "i".
        unit: One of Grafana's, e.g. "s", "Bps".
        queries: Series of the panel.
        warn: Yellow from this value on; None for no threshold.
        alarm: Red from this value on; None for no threshold.
        is_low_bad: Whether low values are bad; `alarm` is then below `warn`.
        is_number: Show one number instead of series over time.
        is_stacked: Stack the series.
        most: Upper end of the axis; None fits it to the series.
        values: Texts to show in place of values.
        columns: Width; a row has 24.
        dashed: Legends of series that are limits rather than measurements.
        colors: Fixed colors of series, by legend.
    """

    title: str
    text: str
    unit: str
    queries: Sequence[Query]
    warn: float | None = None
    alarm: float | None = None
    is_low_bad: bool = False
    is_number: bool = False
    is_stacked: bool = False
    most: float | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    columns: int = 8
    dashed: Sequence[str] = ()
    colors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A title above panels."""

    title: str
    panels: Sequence[Panel]


def dashboard(
    *, uid: str, title: str, text: str, rows: Sequence[Row], variables: Sequence[Any], annotations: Sequence[Any]
) -> dict[str, Any]:
    """Returns a dashboard as Grafana reads it from a file."""
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": [TAG],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "mse-grad",
                "type": "dashboards",
                "tags": [TAG],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": [_variable(**variable) for variable in variables]},
        "annotations": {"list": [_annotation(**annotation) for annotation in annotations]},
        "panels": _laid_out(rows),
    }


def _laid_out(rows: Sequence[Row]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": top},
                "panels": [],
            }
        )
        top += 1
        left = height = 0
        for panel in row.panels:
            if left + panel.columns > _COLUMNS:
                top, left, height = top + height, 0, 0
            rows_high = 4 if panel.is_number else 8
            place = {"h": rows_high, "w": panel.columns, "x": left, "y": top}
            placed.append({"id": len(placed) + 1, **_panel(panel), "gridPos": place})
            left, height = left + panel.columns, max(height, rows_high)
        top += height
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": _RED if panel.is_low_bad else _GREEN, "value": None}]
    if panel.is_low_bad:
        steps += [{"color": _YELLOW, "value": panel.alarm}] if panel.alarm is not None else []
        steps += [{"color": _GREEN, "value": panel.warn}] if panel.warn is not None else []
    else:
        steps += [{"color": _YELLOW, "value": panel.warn}] if panel.warn is not None else []
        steps += [{"color": _RED, "value": panel.alarm}] if panel.alarm is not None else []
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds" if panel.is_number else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": {} if panel.is_number else _lines(panel, has_threshold=len(steps) > 1),
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.values:
        options = {value: {"text": text, "index": index} for index, (value, text) in enumerate(panel.values.items())}
        defaults["mappings"] = [{"type": "value", "options": options}]
    return {
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "range": not panel.is_number,
                "instant": panel.is_number,
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _NUMBER_OPTIONS if panel.is_number else _LINES_OPTIONS,
    }


_NUMBER_OPTIONS = {
    "colorMode": "background",
    "graphMode": "none",
    "justifyMode": "auto",
    "orientation": "auto",
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "textMode": "auto",
    "wideLayout": True,
    "showPercentChange": False,
    "percentChangeColorMode": "standard",
}
_LINES_OPTIONS = {
    "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


def _lines(panel: Panel, *, has_threshold: bool) -> dict[str, Any]:
    return {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 2,
        "fillOpacity": 25 if panel.is_stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if has_threshold else "off"},
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [_dashed(name) for name in panel.dashed] + [_colored(*one) for one in panel.colors.items()]


def _colored(name: str, color: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
    }


def _dashed(name: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "color", "value": {"mode": "fixed", "fixedColor": "text"}},
        ],
    }


def _variable(*, name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # a server without a supervisor has no label `worker`, which matches this too
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 3,
    }


def _annotation(*, name: str, query: str, title: str, color: str, is_time: bool) -> dict[str, Any]:
    return {
        "name": name,
        "datasource": _SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "target": {"refId": "Anno", "expr": query},
        "titleFormat": title,
        "useValueForTime": is_time,
    }
