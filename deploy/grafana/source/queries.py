"""Building blocks of PromQL queries: labels, variables, rates, quantiles, annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["OURS", "VARIABLES", "grown", "marks", "of_npus", "quantile", "rare_quantile", "rate", "rate_of_npus"]

OURS = 'job="mse-grad",instance=~"$instance",worker=~"$worker"'
_RATE = "$__rate_interval"
# Every server exports the device metrics; on a CPU they stay 0.
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
    """Returns PromQL for the rate of a counter per second, summed by some labels."""
    selector = f"{OURS},{labels}" if labels else OURS
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{_RATE}]))"


def of_npus(metric: str) -> str:
    """Returns PromQL for a gauge of those workers that compute on an NPU."""
    return f"({metric}{{{OURS}}} {_NPUS})"


def rate_of_npus(metric: str, by: str) -> str:
    """Returns PromQL for the rate of a counter of NPU workers per second, summed by some labels."""
    return f"sum by ({by}) (rate({metric}{{{OURS}}}[{_RATE}]) {_NPUS})"


def quantile(of: float, metric: str, by: str) -> str:
    """Returns PromQL for a quantile of a histogram."""
    return f"histogram_quantile({of}, {rate(f'{metric}_bucket', f'{by}, le')})"


def grown(metric: str, by: str, window: str) -> str:
    """Returns PromQL for the increase of a counter over a window, including its first sample.

    `increase` ignores the first sample of a new series, but a counter of rare events begins with 1.
    """
    counter = f"{metric}{{{OURS}}}"
    return f"sum by ({by}) (clamp_min({counter} - ({counter} offset {window} or 0 * {counter}), 0))"


def rare_quantile(of: float, metric: str, by: str, window: str) -> str:
    """Returns PromQL for a quantile of a histogram of rare events over a window, including the first event."""
    return f"histogram_quantile({of}, {grown(f'{metric}_bucket', f'{by}, le', window)})"


def marks() -> Sequence[dict[str, Any]]:
    """Returns the annotations on the time axis of every dashboard."""
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
