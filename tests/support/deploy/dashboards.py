"""Queries of the dashboards and rules in deploy/, and those for which a Prometheus has no series."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from support.deploy.prometheus import DEPLOY, Prometheus

__all__ = ["METRIC", "dashboards", "missing", "panel_queries", "recorded", "rules", "selectors"]

METRIC = re.compile(r"\b(?:mse_grad_\w+|process_\w+|npu_chip_info_\w+|[a-z_]+:[a-z0-9_]+:[a-z0-9_]+|up\w*(?=\{))")
_SELECTOR = re.compile(METRIC.pattern + r"(?:\{[^}]*\})?")
# Grafana's values for "All" and for a step of 10 s; the range is that of the longest rule that has to yield here.
_FILLED_IN = {"$__rate_interval": "1m", "$instance": ".*", "$worker": ".*"}


def dashboards() -> dict[str, dict[str, Any]]:
    """Returns the dashboards by the names of their files."""
    paths = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
    return {path.name: json.loads(path.read_text()) for path in paths}


def panel_queries() -> Iterator[tuple[str, str]]:
    """Yields the place and the PromQL of every query of every panel, annotation and variable."""
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield f"{name}, {panel['title']}, {target['refId']}", _filled_in(target["expr"])
        for annotation in dashboard["annotations"]["list"]:
            yield f"{name}, annotation {annotation['name']}", _filled_in(annotation["target"]["expr"])
        for variable in dashboard["templating"]["list"]:
            values = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert values is not None, variable
            yield f"{name}, variable {variable['name']}", _filled_in(values[1])


def rules() -> Iterator[tuple[str, str]]:
    """Yields the name and the PromQL of every alert and every recording rule."""
    for file in ("rules.yml", "alerts.yml"):
        for group in yaml.safe_load((DEPLOY / "prometheus" / file).read_text())["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule["expr"]


def recorded() -> list[str]:
    """Returns the names that the recording rules write."""
    return [name for name, _ in rules() if ":" in name]


def selectors(expression: str) -> list[str]:
    """Returns the names of series in an expression, each with its labels."""
    return _SELECTOR.findall(expression)


def missing(prometheus: Prometheus, expression: str, *, is_condition: bool = False) -> list[str]:
    """Returns the expressions without series now: selectors of `expression`, and it itself unless it is an alert's."""
    parts = selectors(expression) + ([] if is_condition else [expression])
    prometheus.query(expression)
    return [part for part in parts if not prometheus.query(part)]


def _filled_in(text: str) -> str:
    for name, value in _FILLED_IN.items():
        text = text.replace(name, value)
    return text
