"""Serves metrics over HTTP.

Thread safety: any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from mse_grad_server.address import Address
from mse_grad_server.exits import ListenError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["MetricsEndpoint"]


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
        path = environ.get("PATH_INFO")
        if path in ("/", "/metrics"):
            page: Iterable[bytes] = self._metrics_page(environ, start_response)
            return page
        if path != "/ready":  # a probe of another name is not to read a page of metrics as its yes
            status, text = "404 Not Found", b"there are /metrics and /ready\n"
        else:
            status, text = ("200 OK", b"ready\n") if self._is_ready() else ("503 Service Unavailable", b"not ready\n")
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text]
