"""HTTP endpoint of metrics and readiness, for Prometheus and for probes.

One thread with its own event loop serves a bounded number of connections. A probe gets its answer even if other
callers never finish their requests, or if the process has no free descriptors.

Thread safety: any thread may use it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import CollectorRegistry, make_wsgi_app
from structlog.typing import FilteringBoundLogger

from mse_grad_server.metrics.connections import Connections
from mse_grad_server.metrics.http import response, text
from mse_grad_server.metrics.pulse import Pulse
from mse_grad_server.metrics.tls import MetricsTls
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.listen_addresses import listen_error
from mse_grad_server.settings.model import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["MetricsEndpoint"]

_BACKLOG = 64


class MetricsEndpoint:
    """Serves /metrics, and for probes /ready and /live, which answer 200 or 503.

    Both answer 503 while the event loop hangs that serves gradients, and /ready also while requests are not accepted.

    Args:
        registry: The registry whose metrics are served.
        address: The address to listen on.
        is_ready: Returns whether requests are accepted; called in the thread of this endpoint.
        pulse: Pulse of the event loop that serves gradients.
        log: Receives a line when no descriptor is free.
        tls: Certificate for HTTPS; None for HTTP.

    Attributes:
        address: The address, with its real port once the endpoint is open.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        address: Address,
        *,
        is_ready: Callable[[], bool],
        pulse: Pulse,
        log: FilteringBoundLogger,
        tls: MetricsTls | None = None,
    ) -> None:
        self.address = address
        self._tls = tls
        self._is_ready = is_ready
        self._pulse = pulse
        self._log = log
        self._metrics_page = make_wsgi_app(registry)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        registry: CollectorRegistry,
        *,
        is_ready: Callable[[], bool],
        log: FilteringBoundLogger,
    ) -> Self | None:
        """Returns the endpoint in `settings`, or None if they have none; in the event loop that serves gradients."""
        if settings.metrics_listen == "none":
            return None
        tls = MetricsTls(settings.tls_certificate, settings.tls_key) if settings.metrics_tls else None
        call_soon = asyncio.get_running_loop().call_soon_threadsafe
        pulse = Pulse(time.monotonic, call_soon, hang_s=settings.worker_hang_s)
        return cls(registry, Address.parse(settings.metrics_listen), is_ready=is_ready, pulse=pulse, log=log, tls=tls)

    def open(self) -> None:
        """Binds the address and starts serving; raises StartError if it cannot."""
        if self._tls is not None:
            self._tls.open()
        try:
            listener = _listening(self.address)
        except OSError as cause:
            raise listen_error(cause, self.address, setting="--metrics-listen") from cause
        self.address = self.address.with_port(listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        is_open = Event()
        self._thread = Thread(target=self._serve, args=(self._loop, listener, is_open), name="metrics", daemon=True)
        self._thread.start()
        is_open.wait()  # so that the spare descriptor is reserved before other code can use up the last ones

    def close(self) -> None:
        """Stops serving; does nothing if it is not open."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = self._thread = None

    def _serve(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, is_open: Event) -> None:
        # A thread renders pages, so that probes need not wait: a page of several workers takes as long as the slowest.
        with ThreadPoolExecutor(1, "metrics-page") as pages, listener:
            connections = Connections(loop, listener, lambda asked: self._answer(asked, pages), self._log, self._tls)
            connections.open()
            is_open.set()
            loop.run_forever()
            connections.close()
        loop.close()

    async def _answer(self, asked: WSGIEnvironment, pages: ThreadPoolExecutor) -> bytes:
        if asked["PATH_INFO"] in ("/", "/metrics"):
            page = asyncio.get_running_loop().run_in_executor(pages, self._page, asked)
            await asyncio.wait([page])
            if (error := page.exception()) is None:
                return page.result()
            self._log.error("metrics_failed", exc_info=error)
            return text("500 Internal Server Error", "the log says why\n")
        # Unknown paths are 404: a misconfigured probe (/health, say) must not get 200 with the metrics page.
        if asked["PATH_INFO"] not in ("/live", "/ready"):
            return text("404 Not Found", "known paths are /metrics, /ready and /live\n")
        if silent_s := self._pulse.silent_s():
            return text("503 Service Unavailable", f"the event loop has not run for {silent_s:.0f} s\n")
        if asked["PATH_INFO"] == "/live":
            return text("200 OK", "live\n")
        return text("200 OK", "ready\n") if self._is_ready() else text("503 Service Unavailable", "not ready\n")

    def _page(self, asked: WSGIEnvironment) -> bytes:
        started: list[Any] = []
        body = b"".join(self._metrics_page(asked, lambda *start: started.extend(start)))
        return response(started[0], started[1], body)


def _listening(address: Address) -> socket.socket:
    family, _, _, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
