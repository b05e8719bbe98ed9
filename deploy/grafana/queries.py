"""What the queries of all dashboards share: labels, variables, marks on the time axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["OURS", "VARIABLES", "grown", "marks", "of_npus", "quantile", "rare_quantile", "rate", "rate_of_npus"]

OURS = 'job="mse-grad",instance=~"$instance",worker=~"$worker"'
_RATE = "$__rate_interval"
# Every server has the metrics of devices; on a CPU they stay 0.
_NPUS = 'and on (job, instance, worker) mse_grad_build_info{backend=~".*ascend.*"}'

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


def of_npus(metric: str) -> str:
    """Returns PromQL for a gauge of ours, of those workers alone that compute on an NPU."""
    return f"({metric}{{{OURS}}} {_NPUS})"


def rate_of_npus(metric: str, by: str) -> str:
    """Returns PromQL for how fast a counter of theirs grows, a second, summed by some labels."""
    return f"sum by ({by}) (rate({metric}{{{OURS}}}[{_RATE}]) {_NPUS})"


def quantile(of: float, metric: str, by: str) -> str:
    """Returns PromQL for a quantile of a histogram of ours."""
    return f"histogram_quantile({of}, {rate(f'{metric}_bucket', f'{by}, le')})"


def grown(metric: str, by: str, window: str) -> str:
    """Returns PromQL for by how much a counter of ours grew, the first time that it is seen included.

    `increase` takes no notice of a counter that begins with 1, as those of rare events do.
    """
    counter = f"{metric}{{{OURS}}}"
    return f"sum by ({by}) (clamp_min({counter} - ({counter} offset {window} or 0 * {counter}), 0))"


def rare_quantile(of: float, metric: str, by: str, window: str) -> str:
    """Returns PromQL for a quantile of what a histogram of rare events saw in a window, the first included."""
    return f"histogram_quantile({of}, {grown(f'{metric}_bucket', f'{by}, le', window)})"


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
