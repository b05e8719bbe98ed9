"""A picture of a dashboard: its panels at their places, drawn from the data of a Prometheus.

It is not Grafana: it draws only lines, stacks, thresholds, units and legends, enough to see whether a panel shows
anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter

from support.deploy.prometheus import Prometheus

__all__ = ["draw"]

Series = tuple[str, list[float], list[float]]

_UNITS = {
    "s": "s",
    "bytes": "B",
    "Bps": "B/s",
    "binBps": "B/s",
    "watt": "W",
    "celsius": "°C",
    "cps": "/s",
    "reqps": "/s",
    "none": "",
}
_STEP_S = 1
_COLUMN_INCHES, _LINE_INCHES = 0.75, 0.4
_FILLED_IN = {"$__rate_interval": "10s", "$instance": ".*", "$worker": ".*"}


def draw(
    dashboard: Mapping[str, Any], prometheus: Prometheus, path: Path, *, begin_s: float, end_s: float
) -> list[str]:
    """Draws a dashboard over a span of time.

    Args:
        dashboard: The dashboard as Grafana reads it.
        prometheus: The source of the data.
        path: The PNG to write.
        begin_s: Begin of the span, in seconds of Unix time.
        end_s: Its end.

    Returns:
        The titles of the panels that show nothing.
    """
    panels = dashboard["panels"]
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(24 * _COLUMN_INCHES, lines * _LINE_INCHES))
    empty = []
    for panel in panels:
        at = panel["gridPos"]
        left, top, width, height = at["x"] / 24, 1 - at["y"] / lines, at["w"] / 24, at["h"] / lines
        if panel["type"] == "row":
            figure.text(0.01, top - 0.7 * height, panel["title"], weight="bold", size=13)
            continue
        # Margins: on the left for the axis' figures, above for the title, below for the legend.
        axes = figure.add_axes((left + 0.035, top - 0.72 * height, width - 0.05, 0.5 * height))
        found = [one for query in panel["targets"] for one in _series(prometheus, query, begin_s, end_s)]
        if not any(math.isfinite(value) for _, _, values in found for value in values):
            empty.append(panel["title"])
        (_number if panel["type"] == "stat" else _chart)(axes, panel, found)
        axes.set_title(panel["title"], size=10, loc="left")
    figure.savefig(path, dpi=70)
    return empty


def _series(prometheus: Prometheus, query: Mapping[str, Any], begin_s: float, end_s: float) -> list[Series]:
    expression = query["expr"]
    for name, value in _FILLED_IN.items():
        expression = expression.replace(name, value)
    found = []
    for one in prometheus.query_range(expression, begin_s=begin_s, end_s=end_s, step_s=_STEP_S):
        labels = one["metric"]
        legend = str(query["legendFormat"])
        if legend == "__auto":
            legend = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
        for name in re.findall(r"\{\{(\w+)\}\}", legend):
            legend = legend.replace(f"{{{{{name}}}}}", labels.get(name, ""))
        times_s = [float(time_s) - begin_s for time_s, _ in one["values"]]
        found.append((legend.strip(), times_s, [float(value) for _, value in one["values"]]))
    return sorted(found)


def _chart(axes: Axes, panel: Mapping[str, Any], found: Sequence[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    properties = {
        one["matcher"]["options"]: {at["id"]: at["value"] for at in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }
    colors = [_color(properties.get(legend, {})) for legend, _, _ in found]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        times_s = sorted({time_s for _, times_s, _ in found for time_s in times_s})
        columns = [dict(zip(times, values, strict=True)) for _, times, values in found]
        heights = [[column.get(time_s, 0.0) for time_s in times_s] for column in columns]
        if heights:
            chosen = [color or f"C{index}" for index, color in enumerate(colors)]
            axes.stackplot(times_s, heights, labels=[legend for legend, _, _ in found], colors=chosen, alpha=0.7)
    else:
        for color, (legend, times_s, values) in zip(colors, found, strict=True):
            style = "--" if "custom.lineStyle" in properties.get(legend, {}) else "-"
            axes.plot(times_s, values, style, color=color, label=legend, linewidth=1.2)
    for step in defaults["thresholds"]["steps"]:
        # Grafana does not extend the axis for a threshold outside of it.
        if step["value"] is not None and step["value"] <= axes.get_ylim()[1]:
            axes.axhline(step["value"], color=step["color"], linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0, top=defaults.get("max"))
    axes.yaxis.set_major_formatter(_formatter(defaults["unit"]))
    axes.tick_params(labelsize=7)
    if found:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=3, fontsize=6, frameon=False)


def _color(properties: Mapping[str, Any]) -> str | None:
    """Returns matplotlib's name of a fixed color."""
    name = str(properties["color"]["fixedColor"]) if "color" in properties else None
    return {"text": "black", "dark-red": "darkred"}.get(name or "", name)


def _number(axes: Axes, panel: Mapping[str, Any], found: Sequence[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    last = found[0][2][-1] if found and found[0][2] else None
    reached = [
        step for step in defaults["thresholds"]["steps"] if step["value"] is None or (last or 0) >= step["value"]
    ]
    axes.set_facecolor(reached[-1]["color"])
    axes.patch.set_alpha(0.4)
    text = "no data" if last is None else _formatter(defaults["unit"])(last)
    words = defaults.get("mappings", [{"options": {}}])[0]["options"]
    axes.text(
        0.5, 0.5, words.get(f"{last:g}", {}).get("text", text) if last is not None else text, size=16, ha="center"
    )
    axes.set_xticks([])
    axes.set_yticks([])


def _formatter(unit: str) -> Formatter:
    if unit in ("percent", "percentunit"):
        scale = 100 if unit == "percentunit" else 1
        return FuncFormatter(lambda value, _: f"{scale * value:.3g} %")
    if unit == "none":
        return FuncFormatter(lambda value, _: f"{value:g}")
    return EngFormatter(_UNITS[unit])
