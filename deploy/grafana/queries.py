"""What the queries of all dashboards share: labels, variables, marks on the time axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["OURS", "VARIABLES", "grown", "marks", "quantile", "rate"]

OURS = 'job="mse-grad",instance=~"$instance",worker=~"$worker"'
_RATE = "$__rate_interval"

VARIABLES = (
    {"name": "instance", "label": "Host", "query": 'label_values(mse_grad_ready{job="mse-grad"}, instance)'},
    {
        "name": "worker",
        "label": "Worker",
        "query": 'label_values(mse_grad_ready{job="mse-grad",instance=~"$instance"}, worker)',
    },
)


def rate(metric: str, by: str, labels: str = "") -> str:
    """Returns PromQL for how fast a counter of ours grows, a second, summed by some labels."""
    selector = f"{OURS},{labels}" if labels else OURS
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{_RATE}]))"


def quantile(of: float, metric: str, by: str) -> str:
    """Returns PromQL for a quantile of a histogram of ours."""
    return f"histogram_quantile({of}, {rate(f'{metric}_bucket', f'{by}, le')})"


def grown(metric: str, by: str, window: str) -> str:
    """Returns PromQL for by how much a counter of ours grew, the first time that it is seen included.

    `increase` takes no notice of a counter that begins with 1, as those of rare events do.
    """
    counter = f"{metric}{{{OURS}}}"
    return f"sum by ({by}) (clamp_min({counter} - ({counter} offset {window} or 0 * {counter}), 0))"


def marks() -> Sequence[dict[str, Any]]:
    """Returns what every dashboard marks on the time axis."""
    return (
        {
            "name": "Starts",
            "query": f"mse_grad_elements_created{{{OURS}}} * 1000",
            "title": "{{instance}} {{worker}} started",
            "color": "blue",
            "is_time": True,
        },
        {
            "name": "Repairs",
            "query": f"{grown('mse_grad_device_rungs_total', 'instance, worker, rung', _RATE)} > 0",
            "title": "{{instance}} {{worker}}: {{rung}}",
            "color": "red",
            "is_time": False,
        },
    )
