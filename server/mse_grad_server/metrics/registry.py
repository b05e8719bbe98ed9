"""Prometheus metrics of one server, in their own registry; they count requests, not RPCs.

Thread-safe, except attributes that say they belong to the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector

from mse_grad_server.metrics.callers import Callers
from mse_grad_server.metrics.collectors import COARSE_BUCKETS_S, DeadlineMargin, Phases, Total, Traffic
from mse_grad_server.metrics.requests import Requests

__all__ = ["Metrics"]


class Metrics:
    """The metrics of one server: at most 400 series, whatever requests come, and some for each name of a token.

    Attributes:
        registry: The registry that has all of them.
        phases: Time of messages by phase.
        traffic: Transferred elements and bytes by transport; belongs to the event loop.
        margins: Histogram of deadline margins; belongs to the event loop.
        requests: Requests that ended; belongs to the event loop.
        elements: Elements of computed gradients; belongs to the event loop.
        callers: Requests by the name of their token; belongs to the event loop.
    """

    def __init__(self) -> None:
        self.registry = _Registry()
        self.phases = Phases()
        self.registry.register(self.phases)
        self.traffic = Traffic()
        self.registry.register(self.traffic)
        ProcessCollector(registry=self.registry)
        deadline_margin = DeadlineMargin()
        self.registry.register(deadline_margin)
        self.margins = deadline_margin.histogram
        self.requests = Requests()
        self.registry.register(self.requests)
        self.callers = Callers()
        self.registry.register(self.callers)
        self._refusals = self._counter("mse_grad_refusals_total", "Refused requests, by reason.", "reason")
        self._unauthenticated = self._counter(
            "mse_grad_unauthenticated_total", "RPCs rejected because of their token, by reason.", "reason"
        )
        self._certificate_expiry = Gauge(
            "mse_grad_certificate_expiry_timestamp_seconds",
            "Unix time at which the first certificate of a file in use expires: the server's certificates, or the CAs "
            "of clients; absent without TLS.",
            ["file"],
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.credentials_stale = self._gauge(
            "mse_grad_credentials_stale",
            "1 while a file of certificates, keys or tokens is unusable and its former content stays in use.",
        )
        self.elements = Total("mse_grad_elements", "Elements of computed gradients.")
        self.registry.register(self.elements)
        self.in_flight_requests = self._gauge("mse_grad_in_flight_requests", "Requests admitted and not ended.")
        self.in_flight_bytes = self._gauge("mse_grad_in_flight_bytes", "Operand bytes of admitted requests.")
        self.queued_messages = self._gauge(
            "mse_grad_queued_messages", "Messages, or parts of a message, waiting for a compute thread."
        )
        self.open_streams = self._gauge("mse_grad_open_streams", "Open StreamGradients RPCs.")
        self.ready = self._gauge("mse_grad_ready", "1 while the server accepts requests, else 0.")
        self.fallback_elements = self._counter(
            "mse_grad_fallback_elements_total",
            "Elements of gradients that the fallback backend computed because the device could not.",
        )
        self.shared_memory_segments = self._gauge(
            "mse_grad_shared_memory_segments", "Mapped segments of clients' memory."
        )
        self.shared_memory_bytes = self._gauge("mse_grad_shared_memory_bytes", "Mapped bytes of clients' memory.")
        self.shared_memory_elements = self._counter(
            "mse_grad_shared_memory_elements_total",
            "Elements of gradients computed in clients' memory; the operands of all others came in messages.",
        )
        self._direct_refusals = self._counter(
            "mse_grad_direct_refusals_total", "Direct connections that the server refused, by reason.", "reason"
        )
        self._shared_memory_refusals = self._counter(
            "mse_grad_shared_memory_refusals_total", "Refused handovers of clients' memory, by reason.", "reason"
        )
        self.device_available = self._gauge("mse_grad_device_available", "1 while the NPU accepts gradients, else 0.")
        self.device_circuit_open = self._gauge(
            "mse_grad_device_circuit_open",
            "1 while the circuit breaker keeps work from the NPU after repeated faults, else 0.",
        )
        self.device_blocks = self._counter("mse_grad_device_blocks_total", "Blocks that the NPU computed.")
        self.device_plans = self._counter(
            "mse_grad_device_plans_total",
            "Kernel launches that needed a new plan (executor cache misses); a steady rise means that "
            "device_executors is too small.",
        )
        self.device_plan_hits = self._counter(
            "mse_grad_device_plan_hits_total", "Kernel launches that reused a plan (executor cache hits)."
        )
        self.device_memory_bytes = self._gauge(
            "mse_grad_device_memory_bytes", "NPU memory that this worker holds: slots and workspaces."
        )
        self.device_free_bytes = self._gauge("mse_grad_device_free_bytes", "Free NPU memory, sampled every 15 s.")
        self.device_total_bytes = self._gauge("mse_grad_device_total_bytes", "Total NPU memory.")
        self.device_pinned_bytes = self._gauge(
            "mse_grad_device_pinned_bytes", "Pinned host memory that this worker holds for the NPU."
        )
        self._device_faults = self._counter("mse_grad_device_faults_total", "NPU faults, by class.", "fault")
        self._device_rungs = self._counter(
            "mse_grad_device_rungs_total",
            "Recovery steps that were tried, whether or not they helped; the step `end` ends the process.",
            "rung",
        )
        self._device_repairs = Histogram(
            "mse_grad_device_repair_seconds",
            "Time from an NPU fault to its repair, by the recovery step that helped.",
            ["rung"],
            buckets=COARSE_BUCKETS_S,
            registry=self.registry,
        )
        self._sampled_elements = self._counter(
            "mse_grad_sampled_elements_total", "Elements of gradients that output_sample_every selected for inspection."
        )
        self._nonfinite_elements = self._counter(
            "mse_grad_nonfinite_elements_total", "Inspected elements that are infinite or NaN."
        )
        self._underflowed_elements = self._counter(
            "mse_grad_underflowed_elements_total",
            "Inspected elements that are zero although predict and label differ and dout is not zero.",
        )
        self._start_seconds = Gauge(
            "mse_grad_start_seconds",
            "Duration of each startup step; absent until the step is complete.",
            ["step"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._build = Gauge(
            "mse_grad_build_info",
            "Version, backend and device, on an NPU also its SoC and the CANN version; always 1.",
            ["version", "backend", "device", "soc", "cann", "kernel_hash"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._soc = self._cann = ""

    def sampled(self, *, elements: int, nonfinite: int, underflowed: int) -> None:
        """Counts the elements of one inspected gradient."""
        self._sampled_elements.inc(elements)
        self._nonfinite_elements.inc(nonfinite)
        self._underflowed_elements.inc(underflowed)

    def started(self, step: str, seconds: float) -> None:
        """Records the duration of a startup step."""
        self._start_seconds.labels(step).set(seconds)

    def refused(self, reason: str) -> None:
        """Counts a refused request."""
        self._refusals.labels(reason).inc()

    def unauthenticated(self, reason: str) -> None:
        """Counts an RPC that was rejected because of its token."""
        self._unauthenticated.labels(reason).inc()

    def certificate_expires(self, file: str, unix_time_s: float) -> None:
        """Records when the certificates of `file`, "server" or "client_ca", expire."""
        self._certificate_expiry.labels(file).set(unix_time_s)

    def direct_refused(self, reason: str) -> None:
        """Counts a refused direct connection."""
        self._direct_refusals.labels(reason).inc()

    def shared_memory_refused(self, reason: str) -> None:
        """Counts a refused handover of memory."""
        self._shared_memory_refusals.labels(reason).inc()

    def device_fault(self, fault: str) -> None:
        """Counts a device fault by its class."""
        self._device_faults.labels(fault).inc()

    def device_climbed(self, rung: str) -> None:
        """Counts a recovery step that is tried."""
        self._device_rungs.labels(rung).inc()

    def device_repaired(self, rung: str, seconds: float) -> None:
        """Records a repair of the device by the recovery step that helped."""
        self._device_repairs.labels(rung).observe(seconds)

    def device_found(self, *, soc: str, cann: str) -> None:
        """Records the SoC and the CANN version; to be called before `built`."""
        self._soc, self._cann = soc, cann

    def built(self, *, version: str, backend: str, device: str, kernel_hash: str) -> None:
        """Records the version, the backend and the device."""
        self._build.labels(version, backend, device, self._soc, self._cann, kernel_hash).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry, multiprocess_mode="livesum")


class _Registry(CollectorRegistry):
    """A registry without the `_created` samples of labelled metrics, which would double the number of series."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [one for one in metric.samples if not (one.labels and one.name.endswith("_created"))]
            yield metric
