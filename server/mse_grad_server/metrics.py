"""Metrics in a registry of their own; they count requests, not RPCs.

Thread safety: any number of threads, except where an attribute says that it is the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector

from mse_grad_server.margins import Margins
from mse_grad_server.phases import Phases
from mse_grad_server.times import COARSE_BUCKETS_S
from mse_grad_server.traffic import Traffic

__all__ = ["Metrics"]

# A worker that sees every dtype, reduction and code has more combinations than are worth their room in Prometheus.
_MOST_REQUEST_CHILDREN = 112
_OTHER = "other"
_SECONDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60,
)  # fmt: skip


class Metrics:
    """Everything the server counts: at most 400 series, whatever it is asked.

    Attributes:
        registry: Holds it all.
        phases: How long messages spend where.
        traffic: What came and went, by transport.
        margins: How long callers would still have waited; likewise of the event loop.
    """

    def __init__(self) -> None:
        self.registry = _Registry()
        self.phases = Phases()
        self.registry.register(self.phases)
        self.traffic = Traffic()
        self.registry.register(self.traffic)
        ProcessCollector(registry=self.registry)
        margins = Margins()
        self.registry.register(margins)
        self.margins = margins.times
        self._requests = Counter(
            "mse_grad_requests_total",
            "Requests for a gradient that ended, by gRPC code.",
            ["method", "dtype", "reduction", "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "mse_grad_request_seconds",
            "Time from the arrival of a request to its last answer.",
            ["method"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "mse_grad_refusals_total", "Requests that were not taken, by reason.", ["reason"], registry=self.registry
        )
        self._unauthenticated = Counter(
            "mse_grad_unauthenticated_total",
            "RPCs that were refused because of who calls, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._certificate_expiry = Gauge(
            "mse_grad_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file that is in use expires, in seconds of Unix time: that of the server, "
            "or of the CAs of clients; absent without TLS.",
            ["file"],
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.elements = Counter("mse_grad_elements_total", "Elements of computed gradients.", registry=self.registry)
        self.in_flight_requests = self._gauge("mse_grad_in_flight_requests", "Requests admitted and not ended.")
        self.in_flight_bytes = self._gauge("mse_grad_in_flight_bytes", "Operand bytes admitted at this time.")
        self.queued_messages = self._gauge(
            "mse_grad_queued_messages", "Messages, or parts of one, that wait for a thread to compute them."
        )
        self.open_streams = self._gauge("mse_grad_open_streams", "StreamGradients RPCs at this time.")
        self.ready = self._gauge("mse_grad_ready", "1 while requests are taken, else 0.")
        self.fallback_elements = Counter(
            "mse_grad_fallback_elements_total",
            "Elements of gradients that the fallback computed because the device could not.",
            registry=self.registry,
        )
        self.shared_memory_segments = self._gauge(
            "mse_grad_shared_memory_segments", "Segments of clients' memory that are mapped."
        )
        self.shared_memory_bytes = self._gauge("mse_grad_shared_memory_bytes", "Bytes of clients' memory mapped.")
        self.shared_memory_elements = Counter(
            "mse_grad_shared_memory_elements_total",
            "Elements of gradients computed in clients' memory; all others came in messages.",
            registry=self.registry,
        )
        self._shared_memory_refusals = Counter(
            "mse_grad_shared_memory_refusals_total",
            "Handovers of memory that were refused, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.device_available = self._gauge("mse_grad_device_available", "1 while the NPU takes gradients, else 0.")
        self.device_circuit_open = self._gauge(
            "mse_grad_device_circuit_open", "1 while the NPU rests after repeated faults, else 0."
        )
        self.device_blocks = Counter(
            "mse_grad_device_blocks_total", "Blocks that the NPU computed.", registry=self.registry
        )
        self.device_plans = Counter(
            "mse_grad_device_plans_total",
            "Kinds of launch that were planned; a steady rise means that device_executors is too small.",
            registry=self.registry,
        )
        self.device_plan_hits = Counter(
            "mse_grad_device_plan_hits_total",
            "Launches whose kind was planned already: what device_executors keeps warm.",
            registry=self.registry,
        )
        self.device_memory_bytes = self._gauge(
            "mse_grad_device_memory_bytes", "Memory of the NPU that this worker holds: slots and workspaces."
        )
        self.device_free_bytes = self._gauge(
            "mse_grad_device_free_bytes", "Memory of the NPU that nobody held when it was last asked, every 15 s."
        )
        self.device_total_bytes = self._gauge("mse_grad_device_total_bytes", "Memory of the NPU, whoever holds it.")
        self.device_pinned_bytes = self._gauge(
            "mse_grad_device_pinned_bytes", "Pinned memory of the host that this worker holds for the NPU."
        )
        self._device_faults = Counter(
            "mse_grad_device_faults_total", "Failures of the NPU, by class.", ["fault"], registry=self.registry
        )
        self._device_rungs = Counter(
            "mse_grad_device_rungs_total",
            "Rungs of the ladder of repairs that were tried, whether or not they helped; end ends the process.",
            ["rung"],
            registry=self.registry,
        )
        self._device_repairs = Histogram(
            "mse_grad_device_repair_seconds",
            "Time from a failure of the NPU to its repair, by the rung of the ladder that helped.",
            ["rung"],
            buckets=COARSE_BUCKETS_S,
            registry=self.registry,
        )
        self._sampled_elements = Counter(
            "mse_grad_sampled_elements_total",
            "Elements of gradients that were looked into, as output_sample_every says.",
            registry=self.registry,
        )
        self._nonfinite_elements = Counter(
            "mse_grad_nonfinite_elements_total", "Those of them that are infinite or NaN.", registry=self.registry
        )
        self._underflowed_elements = Counter(
            "mse_grad_underflowed_elements_total",
            "Those of them that are zero although predict and label differ and dout is not zero.",
            registry=self.registry,
        )
        self._start_seconds = Gauge(
            "mse_grad_start_seconds",
            "Time that each step of the start took; absent until the step is through.",
            ["step"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._build = Gauge(
            "mse_grad_build_info",
            "What computes, with the versions of the chip and of CANN where it is an NPU; always 1.",
            ["version", "backend", "device", "soc", "cann", "kernel_hash"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._soc = self._cann = ""
        # labels() hashes strings on every call; a request looks its two children up once instead.
        self._children: dict[tuple[str, str, str, str], tuple[Counter, Histogram]] = {}

    def request_ended(
        self, method: str, dtype: str, reduction: str, code: str, seconds: float, *, trace_id: str = ""
    ) -> None:
        """Counts a request for a gradient.

        Args:
            method: "ComputeGradient" or "StreamGradients".
            dtype: Name of its dtype, "unknown" where it named none.
            reduction: Likewise.
            code: Name of the gRPC code it ended with.
            seconds: How long it was under way.
            trace_id: Names its trace, which becomes the example of the bucket that it falls into; "" for none.
        """
        key = (method, dtype, reduction, code)
        children = self._children.get(key)
        if children is None:
            children = self._new_children(key)
        children[0].inc()
        children[1].observe(seconds, {"trace_id": trace_id} if trace_id else None)

    def sampled(self, *, elements: int, nonfinite: int, underflowed: int) -> None:
        """Counts what was seen in a gradient that was looked into."""
        self._sampled_elements.inc(elements)
        self._nonfinite_elements.inc(nonfinite)
        self._underflowed_elements.inc(underflowed)

    def started(self, step: str, seconds: float) -> None:
        """Says how long a step of the start took."""
        self._start_seconds.labels(step).set(seconds)

    def refused(self, reason: str) -> None:
        """Counts a request that was not taken."""
        self._refusals.labels(reason).inc()

    def unauthenticated(self, reason: str) -> None:
        """Counts an RPC that was refused because of who calls."""
        self._unauthenticated.labels(reason).inc()

    def certificate_expires(self, file: str, unix_time_s: float) -> None:
        """Says when a certificate expires: "server" or "client_ca"."""
        self._certificate_expiry.labels(file).set(unix_time_s)

    def shared_memory_refused(self, reason: str) -> None:
        """Counts a handover of memory that was refused."""
        self._shared_memory_refusals.labels(reason).inc()

    def device_fault(self, fault: str) -> None:
        """Counts a failure of the device by its class."""
        self._device_faults.labels(fault).inc()

    def device_climbed(self, rung: str) -> None:
        """Counts a rung of the ladder that is tried."""
        self._device_rungs.labels(rung).inc()

    def device_repaired(self, rung: str, seconds: float) -> None:
        """Counts a repair of the device by its rung."""
        self._device_repairs.labels(rung).observe(seconds)

    def device_found(self, *, soc: str, cann: str) -> None:
        """Says which chip it is, and the version of CANN; before `built`."""
        self._soc, self._cann = soc, cann

    def built(self, *, version: str, backend: str, device: str, kernel_hash: str) -> None:
        """Says what computes."""
        self._build.labels(version, backend, device, self._soc, self._cann, kernel_hash).set(1)

    def _new_children(self, key: tuple[str, str, str, str]) -> tuple[Counter, Histogram]:
        method, dtype, reduction, code = key
        if len(self._children) >= _MOST_REQUEST_CHILDREN:
            dtype = reduction = _OTHER
        children = (self._requests.labels(method, dtype, reduction, code), self._seconds.labels(method))
        if dtype is not _OTHER:
            self._children[key] = children
        return children

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry, multiprocess_mode="livesum")


class _Registry(CollectorRegistry):
    """Without the time at which each child of a metric was made, which would be a series as long-lived as its own."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [one for one in metric.samples if not (one.labels and one.name.endswith("_created"))]
            yield metric
