"""What is left of callers' time when their gradients are ready."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from mse_grad_server.times import Times

__all__ = ["Margins"]

_BOUNDS_S = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


class Margins(Collector):
    """Counts in the event loop.

    Attributes:
        times: Of the requests that were answered and had a deadline.
    """

    def __init__(self) -> None:
        self.times = Times(_BOUNDS_S)

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        family = HistogramMetricFamily(
            "mse_grad_deadline_margin_seconds",
            "Time that the caller would still have waited when its gradient was ready; no deadline, no margin.",
            labels=[],
        )
        family.add_metric([], *self.times.snapshot())
        return [family]
