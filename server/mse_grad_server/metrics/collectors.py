"""Collectors that cost less than prometheus_client's: durations by phase, deadline margins and transferred bytes.

Observing a duration takes 0.7 us with prometheus_client and 0.2 us here. Incrementing a counter takes 0.3 us there.
Every message of 50 us does four of each.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from threading import Lock

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

__all__ = ["COARSE_BUCKETS_S", "DeadlineMargin", "DurationHistogram", "Phases", "Total", "Traffic", "TransferCounter"]

COARSE_BUCKETS_S = (0.00005, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Bucket bounds of histograms with many children: half the number of those of the histogram of requests."""

_MARGIN_BUCKETS_S = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


class DurationHistogram:
    """A histogram of durations in seconds."""

    __slots__ = ("_bounds_s", "_counts", "_lock", "_sum_s")

    def __init__(self, bounds_s: Sequence[float] = COARSE_BUCKETS_S) -> None:
        self._bounds_s = bounds_s
        self._lock = Lock()
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def observe_unlocked(self, seconds: float) -> None:
        """Adds one duration without locking; call it only if no other thread adds at the same time."""
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def observe(self, seconds: float) -> None:
        """Adds one duration; any thread may call it."""
        with self._lock:
            self.observe_unlocked(seconds)

    def totals(self) -> tuple[int, float]:
        """Returns the number of durations and their sum in seconds; any thread may call it."""
        with self._lock:
            return sum(self._counts), self._sum_s

    def snapshot(self) -> tuple[list[tuple[str, float]], float]:
        """Returns the cumulative counts by bound, as Prometheus has them, and the sum; any thread may call it."""
        with self._lock:
            counts, sum_s = list(accumulate(self._counts)), self._sum_s
        bounds = [*(str(float(bound_s)) for bound_s in self._bounds_s), "+Inf"]
        return list(zip(bounds, counts, strict=True)), sum_s


class Phases(Collector):
    """How long messages spend in each phase. A phase that does not occur, such as a copy without an NPU, stays empty.

    Attributes:
        queue: From the arrival of a message to the thread that computes it. On an NPU it also has the waits of a block:
            for a free slot, and for its turn in each stage.
        decode: Parsing a message, checking and admitting its requests.
        copy_in: Copying the operands of a block to pinned memory, and from there to the device.
        kernel: Computing a message; on an NPU, the kernel of a block by the device's own clock.
        copy_out: Copying the gradient of a block from the device to pinned memory, and from there to its place.
        encode: Laying out the answer, into which the gradients are then computed.
    """

    def __init__(self) -> None:
        self.queue = DurationHistogram()
        self.decode = DurationHistogram()
        self.copy_in = DurationHistogram()
        self.kernel = DurationHistogram()
        self.copy_out = DurationHistogram()
        self.encode = DurationHistogram()

    @override
    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(
            "mse_grad_phase_seconds",
            "Time of a message, on an NPU of a block, in a phase: queue, decode, copy_in, kernel, copy_out, encode.",
            labels=["phase"],
        )
        for phase, histogram in vars(self).items():
            family.add_metric([phase], *histogram.snapshot())
        return [family]


class DeadlineMargin(Collector):
    """How much of the caller's time is left when its gradient is ready. Belongs to the event loop.

    Attributes:
        histogram: Margins of the answered requests that had a deadline.
    """

    def __init__(self) -> None:
        self.histogram = DurationHistogram(_MARGIN_BUCKETS_S)

    @override
    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(
            "mse_grad_deadline_margin_seconds",
            "Time left until the caller's deadline when its gradient was ready; requests without a deadline do not "
            "count.",
            labels=[],
        )
        family.add_metric([], *self.histogram.snapshot())
        return [family]


class Total(Collector):
    """A counter without labels. Belongs to the event loop; any thread may read it.

    Args:
        name: Name of the counter, without "_total".
        text: Its description.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._value = 0
        self._created_s = time.time()

    def inc(self, amount: int) -> None:
        """Adds `amount`."""
        self._value += amount

    @override
    def collect(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._text, self._value, created=self._created_s)]


class TransferCounter:
    """Elements and bytes that one transport moved. Belongs to the event loop; any thread may read it."""

    __slots__ = ("bytes_in", "bytes_out", "elements_in", "elements_out")

    def __init__(self) -> None:
        self.elements_in = self.elements_out = self.bytes_in = self.bytes_out = 0

    def count(self, elements_in: int, elements_out: int, bytes_in: int, bytes_out: int) -> None:
        """Adds operands that came in and gradients that go out."""
        self.elements_in += elements_in
        self.elements_out += elements_out
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out


class Traffic(Collector):
    """Transferred elements and bytes by transport.

    Attributes:
        stream: Messages of StreamGradients over HTTP/2.
        packets: Messages of StreamGradients over a unix socket.
        direct: Messages of StreamGradients over a direct connection.
        unary: Messages of ComputeGradient.
        shared_memory: Clients' memory, in which the server computes in place.
    """

    def __init__(self) -> None:
        self.stream = TransferCounter()
        self.packets = TransferCounter()
        self.direct = TransferCounter()
        self.unary = TransferCounter()
        self.shared_memory = TransferCounter()

    @override
    def collect(self) -> Iterable[Metric]:
        labels = ["direction", "transport"]
        elements = CounterMetricFamily(
            "mse_grad_transferred_elements",
            "Elements of operands that came in and of gradients that went out, by transport.",
            labels=labels,
        )
        size_bytes = CounterMetricFamily(
            "mse_grad_transferred_bytes",
            "Bytes of operands that came in and of gradients that went out, by transport.",
            labels=labels,
        )
        for transport, transferred in vars(self).items():
            elements.add_metric(["in", transport], transferred.elements_in)
            elements.add_metric(["out", transport], transferred.elements_out)
            size_bytes.add_metric(["in", transport], transferred.bytes_in)
            size_bytes.add_metric(["out", transport], transferred.bytes_out)
        return [elements, size_bytes]
