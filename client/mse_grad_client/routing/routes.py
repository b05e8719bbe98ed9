"""Ways to the servers of a client: connections with their credentials, and lookups of names."""

from __future__ import annotations

from collections.abc import Callable

from mse_grad_client.events import Events
from mse_grad_client.interrupts import Latch
from mse_grad_client.options import ClientOptions
from mse_grad_client.routing.address import is_own
from mse_grad_client.routing.arrivals import Arrivals
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.credentials import Credentials
from mse_grad_client.routing.lookup import Lookup
from mse_grad_client.routing.no_server import NoServer
from mse_grad_client.routing.proxy import proxy_of
from mse_grad_client.routing.target import Target, look_up
from mse_grad_client.shared_memory.allocator import Allocator

__all__ = ["Routes"]


class Routes:
    """Makes the connections of one client. Thread-safe.

    Args:
        target: Servers that the user gave.
        options: Options of the client.
        closed: Set when the client is closed.

    Attributes:
        allocator: Allocator of memory that servers on this host may map; None if memory sharing is disabled.

    Raises:
        ValueError: A token would go to another machine without TLS.
        TlsFailed, Unauthenticated: A credential file cannot be used.
    """

    def __init__(self, target: Target, options: ClientOptions, *, closed: Latch) -> None:
        is_near = any(is_own(address) for address, _ in target.entries)
        self.allocator = Allocator(is_wanted=is_near) if options.shared_memory else None
        self._target = target
        self._options = options
        self._closed = closed
        self._events = Events(options.metrics)
        # Each server has a certificate with the name of its own address.
        self._credentials = {
            address: Credentials(options, given=address, looks_up=is_name) for address, is_name in target.entries
        }

    def connect(self, address: str, given: str, on_stream: Callable[[], None] | None) -> Connection:
        """Returns a connection.

        Args:
            address: Address of a server or worker.
            given: Address that the user gave for the server.
            on_stream: Called after each opening of a stream.
        """

        def opened() -> None:
            self._events.connected(address)
            if on_stream is not None:
                on_stream()

        return Connection(
            address,
            options=self._options,
            credentials=self._credentials[given],
            closed=self._closed,
            allocator=self.allocator,
            on_stream=opened,
        )

    def no_server(self, arrivals: Arrivals, is_there: Callable[[], bool]) -> NoServer:
        """Returns the connection that stands for many servers while none is in use; see NoServer."""
        return NoServer(
            self._target,
            options=self._options,
            credentials=self._credentials[self._target.first],
            closed=self._closed,
            arrivals=arrivals,
            is_there=is_there,
        )

    def lookup(self) -> Lookup:
        """Returns a lookup of the target's names."""
        resolve = self._options.resolve or look_up
        return Lookup(self._target, resolve, is_proxied=lambda name: proxy_of(name) is not None)
