"""How long messages spend in each phase of their way, as one histogram.

The cells are our own: a histogram of prometheus_client takes 0.7 us for what takes 0.2 here, and every message of 50 us
has three.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from threading import Lock

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

__all__ = ["COARSE_BUCKETS_S", "Phases", "Times"]

COARSE_BUCKETS_S = (0.00005, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Bounds of the histograms that have many children: half as many as a request has."""


class Times:
    """The durations of one phase."""

    __slots__ = ("_counts", "_lock", "_sum_s")

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = [0] * (len(COARSE_BUCKETS_S) + 1)
        self._sum_s = 0.0

    def count(self, seconds: float) -> None:
        """Counts one more; for a phase that no other thread counts at the same time."""
        self._counts[bisect_left(COARSE_BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def observe(self, seconds: float) -> None:
        """Counts one more; from any thread."""
        with self._lock:
            self.count(seconds)

    def snapshot(self) -> tuple[list[int], float]:
        """Returns how many there were up to each bound, then all; and their sum. From any thread."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum_s


class Phases(Collector):
    """The phases. What has none, as the copies where there is no NPU, stays without a duration.

    Attributes:
        queue: From the arrival of a message to a thread that computes it; on an NPU also from a thread to a free slot.
        decode: Reading a message, checking and admitting what it asks for.
        copy_in: Copying the operands of a block to pinned memory.
        kernel: Computing a message; on an NPU, a block's ways to the device and back and the kernel between them.
        copy_out: Copying the gradient of a block out of pinned memory.
        encode: Laying out the answer, into which the gradients are then computed.
    """

    def __init__(self) -> None:
        self.queue = Times()
        self.decode = Times()
        self.copy_in = Times()
        self.kernel = Times()
        self.copy_out = Times()
        self.encode = Times()

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        family = HistogramMetricFamily(
            "mse_grad_phase_seconds",
            "Time of a message, on an NPU of a block, in a phase: queue, decode, copy_in, kernel, copy_out, encode.",
            labels=["phase"],
        )
        for phase, times in vars(self).items():
            counts, sum_s = times.snapshot()
            bounds = [*(str(bound_s) for bound_s in COARSE_BUCKETS_S), "+Inf"]
            family.add_metric([phase], list(zip(bounds, counts, strict=True)), sum_s)
        return [family]
