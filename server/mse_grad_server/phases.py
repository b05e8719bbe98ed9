"""How long messages spend in each phase of their way, as one histogram."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from mse_grad_server.times import Times

__all__ = ["Phases"]


class Phases(Collector):
    """The phases. What has none, as the copies where there is no NPU, stays without a duration.

    Attributes:
        queue: From the arrival of a message to a thread that computes it; on an NPU also the waits of a block, for a
            free slot and for its turn in each stage.
        decode: Reading a message, checking and admitting what it asks for.
        copy_in: Copying the operands of a block to pinned memory, and from there to the device.
        kernel: Computing a message; on an NPU, the kernel of a block by the device's own clock.
        copy_out: Copying the gradient of a block to pinned memory, and out of it.
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
            family.add_metric([phase], *times.snapshot())
        return [family]
