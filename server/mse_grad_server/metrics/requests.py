"""Collector of requests that ended: their number by outcome, and their time. As fast as those of `collectors`."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from typing_extensions import override

from mse_grad_server.metrics.collectors import DurationHistogram

__all__ = ["RequestTotals", "Requests"]

# Most label combinations of the counter. All dtypes, reductions and codes together would give more series than are
# worth storing. Requests beyond it count as "other".
_MOST_COMBINATIONS = 100
_OTHER = "other"
_BUCKETS_S = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60,
)  # fmt: skip


class RequestTotals(NamedTuple):
    """Totals of requests that ended.

    Attributes:
        succeeded: Number of those that were answered.
        failed: Number of those that failed.
        seconds: Time of both kinds.
    """

    succeeded: int
    failed: int
    seconds: float


class Requests(Collector):
    """Requests for a gradient that ended. Belongs to the event loop; any thread may read it."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str, str], int] = {}
        self._times: dict[str, DurationHistogram] = {}
        self._exemplars: dict[tuple[str, int], Exemplar] = {}  # by method and number of the bucket

    def ended(self, method: str, dtype: str, reduction: str, code: str, seconds: float, *, trace_id: str = "") -> None:
        """Counts a request that ended.

        Args:
            method: "ComputeGradient" or "StreamGradients".
            dtype: Name of its dtype; "unknown" if the request has none.
            reduction: Name of its reduction; "unknown" if the request has none.
            code: Name of the gRPC code that it ended with.
            seconds: Time from its arrival to its last answer.
            trace_id: Its trace, which becomes the exemplar of its bucket; "" for none.
        """
        key = (method, dtype, reduction, code)
        counted = self._counts.get(key)
        if counted is None:
            if len(self._counts) >= _MOST_COMBINATIONS:
                key = (method, _OTHER, _OTHER, code)
            self._times.setdefault(method, DurationHistogram(_BUCKETS_S))
            counted = self._counts.get(key, 0)
        self._counts[key] = counted + 1
        self._times[method].observe_unlocked(seconds)
        if trace_id:
            bucket = bisect_left(_BUCKETS_S, seconds)
            self._exemplars[method, bucket] = Exemplar({"trace_id": trace_id}, seconds, time.time())

    def totals(self) -> RequestTotals:
        """Returns the totals over all methods, dtypes and reductions."""
        counts = self._counts.copy().items()
        succeeded = sum(count for (*_, code), count in counts if code == "OK")
        seconds = sum(times.totals()[1] for times in list(self._times.values()))
        return RequestTotals(succeeded, sum(count for _, count in counts) - succeeded, seconds)

    @override
    def collect(self) -> Iterable[Metric]:
        counter = CounterMetricFamily(
            "mse_grad_requests",
            "Requests for a gradient that ended, by gRPC code.",
            labels=["method", "dtype", "reduction", "code"],
        )
        for key, count in self._counts.copy().items():
            counter.add_metric(key, count)
        histogram = HistogramMetricFamily(
            "mse_grad_request_seconds", "Time from the arrival of a request to its last answer.", labels=["method"]
        )
        for method, times in self._times.copy().items():
            cumulative, sum_s = times.snapshot()
            exemplars = [self._exemplars.get((method, bucket)) for bucket in range(len(cumulative))]
            histogram.add_metric(
                [method],
                [
                    (*bound, exemplar) if exemplar else bound
                    for bound, exemplar in zip(cumulative, exemplars, strict=True)
                ],
                sum_s,
            )
        return [counter, histogram]
