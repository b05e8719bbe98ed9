"""Listener for direct connections: it accepts strangers, and serves those that show the secret of an open stream."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from structlog.typing import FilteringBoundLogger

from mse_grad.frames import HEAD_BYTES, MAX_GREETING_BYTES, head
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.acceptor import Acceptor
from mse_grad_server.direct.lingering import Lingering
from mse_grad_server.direct.offers import Offer, Offers, ServeFrames
from mse_grad_server.direct.wire import TlsWire, Wire
from mse_grad_server.errors import DirectDenied, DirectFull, ServerError, to_status
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.clock import Clock
from mse_grad_server.security.contexts import RotatedContext
from mse_grad_server.security.credentials import Rotated
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.listen_addresses import listen_error, listening_sockets
from mse_grad_server.settings.model import Settings

if TYPE_CHECKING:
    from mse_grad_server.security.certificates import Certificates

__all__ = ["DirectListener", "DirectOptions"]

# Most connections that have not shown a secret, and the longest time that one may take to show it.
_MOST_STRANGERS = 64
_GREETING_S = 5.0
_WILDCARDS = frozenset(("0.0.0.0", "::"))  # noqa: S104 - compared, not bound


@dataclass(frozen=True)
class DirectOptions:
    """Options of direct connections.

    Attributes:
        address: Address to listen on; None for no direct connections.
        is_chosen: Whether the user chose the address, so that the server does not start without it.
        shown_host: Host that clients get in the offer; "" for the one by which they reached the server.
        most_bytes: Largest message.
    """

    address: Address | None
    is_chosen: bool
    shown_host: str
    most_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> DirectOptions:
        """Returns the options in `settings`."""
        address = settings.direct_address
        shown_host = ""
        if address is not None and address.host not in (Address.parse(settings.listen).host, *_WILDCARDS):
            shown_host = address.host
        return cls(
            address=address,
            is_chosen=settings.direct_listen != "auto",
            shown_host=shown_host,
            most_bytes=int(settings.max_stream_message_bytes),
        )


class DirectListener:
    """TCP listener for connections that carry requests beside a stream; belongs to the event loop.

    Args:
        options: Options of direct connections.
        metrics: Metrics of refusals.
        clock: Clock of the time-outs.
        log: Log of refusals.
        instance_id: Id of this run of the server.
        tls: Context of TLS; None without TLS.
    """

    def __init__(
        self,
        options: DirectOptions,
        metrics: Metrics,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        instance_id: str,
        tls: RotatedContext | None,
    ) -> None:
        self._options = options
        self._address = options.address
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._tls = tls
        self._offers = Offers(instance_id=instance_id, most_bytes=options.most_bytes)
        self._listeners: list[socket.socket] = []
        self._strangers: set[asyncio.Task[None]] = set()
        self._lingering = Lingering()
        self._acceptor = Acceptor(
            clock,
            on_connection=self._on_connection,
            on_exhausted=lambda: metrics.direct_refused(Reason.DIRECT_FULL.value),
            on_paused=lambda error: log.error(
                "direct_paused", message=f"a client could not be accepted: {error.strerror}"
            ),
        )

    @classmethod
    def of(
        cls,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        instance_id: str,
        certificates: Rotated[Certificates] | None,
    ) -> DirectListener:
        """Returns the listener of a server with these settings; with certificates it has TLS."""
        tls = None if certificates is None else RotatedContext(certificates)
        return cls(DirectOptions.of(settings), metrics, clock, log, instance_id=instance_id, tls=tls)

    @property
    def address(self) -> Address | None:
        """The address that it listens on, with its port; None if it does not listen."""
        return self._address if self._listeners else None

    def open(self) -> None:
        """Listens; without an address, or if an automatic one cannot be had, the server serves streams alone.

        Raises:
            ListenError: The address that the user chose cannot be had.
        """
        if self._address is None:
            return
        try:
            self._listeners = listening_sockets(self._address)
            self._acceptor.open(self._listeners)
        except OSError as error:
            self._close_listeners()
            if self._options.is_chosen:
                raise listen_error(error, self._address, setting="--direct-listen") from error
            self._log.warning("no_direct_connections", message=f"cannot open their port: {error.strerror or error}")
            return
        self._address = self._address.with_port(self._listeners[0].getsockname()[1])

    def offer(self, serve: ServeFrames) -> Offer | None:
        """Returns the offer to a new stream, which closes it at its end; None if there are no direct connections.

        Args:
            serve: Serves the connection of the client.
        """
        if self._address is None or not self._acceptor.is_accepting:
            return None
        return self._offers.make(self._options.shown_host, self._address.port, serve)

    async def close(self) -> None:
        """Stops listening and ends the connections, which have shown no secret or whose streams have ended."""
        self._acceptor.close()
        self._close_listeners()
        for stranger in list(self._strangers):
            stranger.cancel()
        if self._strangers:
            await asyncio.wait(list(self._strangers))
        await self._lingering.close()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _on_connection(self, connection: socket.socket) -> None:
        if len(self._strangers) >= _MOST_STRANGERS:
            self._refused(DirectFull("too many connections have not shown a secret yet"))
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(self._greet(connection))
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    async def _greet(self, connection: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if self._tls is None:
                wire = Wire(connection, self._lingering)
            else:
                wire = TlsWire(connection, self._tls.context(), self._lingering)
        except OSError as error:  # the client is gone, or OpenSSL does not take the certificate
            connection.close()
            self._refused(DirectDenied(f"the connection cannot be served: {error.strerror or error}"))
            return
        late = self._clock.call_at(self._clock.now() + _GREETING_S, lambda: _cancel(task))
        is_served = False
        try:
            await wire.open()
            offer = self._offers.take(await _greeting(wire))
            offer.accept(wire)
            is_served = True
        except asyncio.CancelledError:
            self._refused(DirectDenied(f"the connection showed no secret within {_GREETING_S:g} s"))
        except ServerError as error:
            self._refused(error)
            _answer(wire, error)
        except OSError as error:  # also a failed handshake; or the client is gone
            self._refused(DirectDenied(f"the connection ended before its greeting: {error.strerror or error}"))
        finally:
            late.cancel()
            if not is_served:
                wire.close()

    def _refused(self, error: ServerError) -> None:
        self._metrics.direct_refused(error.reason.value)
        self._log.info("direct_refused", reason=error.reason.value, message=str(error))


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _greeting(wire: Wire) -> pb.DirectGreeting:
    size_bytes = int.from_bytes(await wire.receive_exactly(HEAD_BYTES), "big")
    if size_bytes > MAX_GREETING_BYTES:
        raise DirectDenied(f"a greeting has at most {MAX_GREETING_BYTES} bytes")
    try:
        return pb.DirectGreeting.FromString(await wire.receive_exactly(size_bytes))
    except DecodeError as cause:
        raise DirectDenied("the greeting is not an mse_grad.v1.DirectGreeting") from cause


def _answer(wire: Wire, error: ServerError) -> None:
    go_away = pb.GoAway(status=to_status(error, request_id=""))
    message = pb.StreamGradientsResponse(go_away=go_away).SerializeToString()
    try:
        wire.send([head(len(message)), message])
    except OSError:  # the client is gone
        return
