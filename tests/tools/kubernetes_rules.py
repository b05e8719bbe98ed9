"""The rules and alerts of deploy/prometheus as an object of the Prometheus operator.

PYTHONPATH=tests .venv/bin/python -m tools.kubernetes_rules    # writes rules.yaml of the component `monitoring`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["OBJECT", "as_object"]

_DEPLOY = Path(__file__).parents[2] / "deploy"
OBJECT = _DEPLOY / "kubernetes/components/monitoring/rules.yaml"

_HEAD = """\
# Made from deploy/prometheus by tests/tools/kubernetes_rules.py. The rules of npu-exporter are left out: in a cluster
# its series name pods, not workers.
"""
_LEFT_OUT = "mse-grad-npu"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_object() -> str:
    """Returns the text of the object."""
    groups = [group for name in ("rules.yml", "alerts.yml") for group in _groups(name) if group["name"] != _LEFT_OUT]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "mse-grad", "namespace": "mse-grad"},
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


def _groups(name: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load((_DEPLOY / "prometheus" / name).read_text(encoding="utf-8"))["groups"]
    return groups


if __name__ == "__main__":
    OBJECT.write_text(as_object(), encoding="utf-8")
