"""One address with our services on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from mse_grad_server.address import Address
from mse_grad_server.config import Settings
from mse_grad_server.exits import ListenError
from mse_grad_server.health import Health
from mse_grad_server.interceptors import CallInterceptor
from mse_grad_server.rotation import Rotated
from mse_grad_server.service import SERVICE, Service
from mse_grad_server.unix_socket import UnixSocketFile

if TYPE_CHECKING:
    from mse_grad_server.certificates import Certificates

__all__ = ["Listener"]

# How long a connection that began before certificates were exchanged may take to begin its handshake; microseconds do.
_SETTLE_S = 0.05


class Listener:
    """A gRPC server on one address; several may have the same services. Belongs to the event loop.

    Attributes:
        address: Where it listens; the port is known once it is open.
    """

    def __init__(
        self,
        address: Address,
        service: Service,
        health: Health,
        interceptor: CallInterceptor,
        settings: Settings,
        *,
        certificates: Rotated[Certificates] | None = None,
        shares_port: bool = False,
    ) -> None:
        """Takes what it serves.

        Args:
            address: Where to listen.
            service: Ours.
            health: That of grpc.health.v1.
            interceptor: Goes around every call.
            settings: Has the limits of messages.
            certificates: For TLS; None without.
            shares_port: Whether other processes of this user listen on the port as well.
        """
        self.address = address
        self._health = health
        self._certificates = certificates
        self._socket_file = UnixSocketFile(address.path) if address.path else None
        self._grpc = grpc.aio.server(interceptors=[interceptor], options=_options(settings, shares_port=shares_port))
        self._grpc.add_generic_rpc_handlers((service.handler(),))

    async def open(self) -> None:
        """Listens; raises ListenError where it cannot."""
        self._health.add_to(self._grpc)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        channelz.add_channelz_servicer(self._grpc)
        if self._socket_file is not None:
            self._socket_file.prepare()
        try:
            if self._certificates is None:
                port = self._grpc.add_insecure_port(str(self.address))
            else:
                port = self._grpc.add_secure_port(str(self.address), _credentials(self._certificates))
        except RuntimeError as cause:
            raise ListenError(
                f"cannot listen on {self.address}: it is in use, or not of this machine; choose another --listen"
            ) from cause
        if self._socket_file is not None:
            self._socket_file.bound()
        else:
            self.address = self.address.with_port(port)
        await self._grpc.start()

    async def close(self, grace_s: float) -> None:
        """Takes no connection from now on, and cancels what is left after `grace_s`; a later call may shorten that."""
        await self._grpc.stop(grace_s)
        if self._socket_file is not None:
            self._socket_file.remove()


def _credentials(certificates: Rotated[Certificates]) -> grpc.ServerCredentials:
    in_use = certificates.value

    def changed() -> Any:  # a configuration or None, which the stubs do not know
        # gRPC asks at each new connection, under a lock of this address. What it replaces it frees, also where another
        # connection has just left the lock to take a reference (grpc/grpc issue 36693): to answer anew each time is a
        # crash within seconds of many connections. So only a change is an answer, and that takes its time.
        nonlocal in_use
        if certificates.value is in_use:
            return None
        time.sleep(_SETTLE_S)
        in_use = certificates.value
        return _configuration(in_use)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use), changed, require_client_authentication=in_use.client_ca is not None
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pairs = [(certificates.key, certificates.chain)]
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=certificates.client_ca)


def _options(settings: Settings, *, shares_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.receive_limit_bytes),
        ("grpc.max_send_message_length", -1),
        # Without a zero two servers would share a port, and calls would go to either.
        ("grpc.so_reuseport", int(shares_port)),
        # Clients may ask whether the connection lives, also while no call is under way.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        # A client that vanished without a word is noticed, and what it held given back.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
