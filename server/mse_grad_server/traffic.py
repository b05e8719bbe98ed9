"""What came and went, by transport.

The cells are plain numbers of the event loop: a step of prometheus_client's counters takes 0.3 us, and every message of
50 us takes four.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Tally", "Traffic"]


class Tally:
    """Of one transport. Belongs to the event loop; any thread may read."""

    __slots__ = ("bytes_in", "bytes_out", "elements_in", "elements_out")

    def __init__(self) -> None:
        self.elements_in = self.elements_out = self.bytes_in = self.bytes_out = 0

    def count(self, elements_in: int, elements_out: int, bytes_in: int, bytes_out: int) -> None:
        """Counts operands that came in, and gradients that go out."""
        self.elements_in += elements_in
        self.elements_out += elements_out
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out


class Traffic(Collector):
    """The transports.

    Attributes:
        stream: Messages of StreamGradients.
        packets: Those of them that come and go over a unix socket instead of HTTP/2.
        unary: Messages of ComputeGradient.
        shared_memory: Clients' memory, which is computed in where it lies.
    """

    def __init__(self) -> None:
        self.stream = Tally()
        self.packets = Tally()
        self.unary = Tally()
        self.shared_memory = Tally()

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        labels = ["direction", "transport"]
        elements = CounterMetricFamily(
            "mse_grad_transferred_elements",
            "Elements of operands that came (in) and of gradients that went (out), by transport.",
            labels=labels,
        )
        size_bytes = CounterMetricFamily(
            "mse_grad_transferred_bytes",
            "Bytes of operands that came (in) and of gradients that went (out), by transport.",
            labels=labels,
        )
        for transport, tally in vars(self).items():
            elements.add_metric(["in", transport], tally.elements_in)
            elements.add_metric(["out", transport], tally.elements_out)
            size_bytes.add_metric(["in", transport], tally.bytes_in)
            size_bytes.add_metric(["out", transport], tally.bytes_out)
        return [elements, size_bytes]
