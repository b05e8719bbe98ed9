"""Metrics in a registry of their own; they count requests, not RPCs.

Thread safety: any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app, start_http_server

from mse_grad_server.address import Address
from mse_grad_server.exits import ListenError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Metrics", "MetricsEndpoint"]

_SECONDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60,
)  # fmt: skip


class Metrics:
    """Everything the server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self._transferred = Counter(
            "mse_grad_transferred_bytes_total",
            "Bytes of operands received (in) and of gradients sent (out).",
            ["direction"],
            registry=self.registry,
        )
        self.elements = Counter("mse_grad_elements_total", "Elements of computed gradients.", registry=self.registry)
        self.in_flight_requests = self._gauge("mse_grad_in_flight_requests", "Requests admitted and not ended.")
        self.in_flight_bytes = self._gauge("mse_grad_in_flight_bytes", "Operand bytes admitted at this time.")
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
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._build = Gauge(
            "mse_grad_build_info",
            "What computes; always 1.",
            ["version", "backend", "device", "kernel_hash"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.bytes_in = self._transferred.labels("in")
        self.bytes_out = self._transferred.labels("out")
        # labels() hashes strings on every call; a request looks its two children up once instead.
        self._children: dict[tuple[str, str, str, str], tuple[Counter, Histogram]] = {}

    def request_ended(self, method: str, dtype: str, reduction: str, code: str, seconds: float) -> None:
        """Counts a request for a gradient.

        Args:
            method: "ComputeGradient" or "StreamGradients".
            dtype: Name of its dtype, "unknown" where it named none.
            reduction: Likewise.
            code: Name of the gRPC code it ended with.
            seconds: How long it was under way.
        """
        key = (method, dtype, reduction, code)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = (self._requests.labels(*key), self._seconds.labels(method))
        children[0].inc()
        children[1].observe(seconds)

    def refused(self, reason: str) -> None:
        """Counts a request that was not taken."""
        self._refusals.labels(reason).inc()

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

    def built(self, *, version: str, backend: str, device: str, kernel_hash: str) -> None:
        """Says what computes."""
        self._build.labels(version, backend, device, kernel_hash).set(1)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry, multiprocess_mode="livesum")


class MetricsEndpoint:
    """Serves the metrics over HTTP from a thread of its own, and for probes /ready: 200 or 503."""

    def __init__(self, registry: CollectorRegistry, address: Address, *, is_ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._is_ready = is_ready
        self._metrics_page = make_wsgi_app(registry)
        self.address = address
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    def open(self) -> None:
        """Binds and serves; `address` then holds the port. Raises ListenError where it cannot bind."""
        try:
            self._server, self._thread = start_http_server(
                self.address.port, self.address.host, registry=self._registry
            )
        except OSError as cause:
            raise ListenError(
                f"metrics cannot listen on {self.address}: {cause.strerror or cause}; "
                "choose another --metrics-listen, or none"
            ) from cause
        self._server.set_app(self._page)
        self.address = self.address.with_port(self._server.server_port)

    def close(self) -> None:
        """Ends; does nothing where it is not open."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def _page(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != "/ready":
            page: Iterable[bytes] = self._metrics_page(environ, start_response)
            return page
        status, text = ("200 OK", b"ready\n") if self._is_ready() else ("503 Service Unavailable", b"not ready\n")
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text]
