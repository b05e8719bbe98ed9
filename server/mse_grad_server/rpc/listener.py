"""Listener: a gRPC server with the services of this server on one address."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2

from mse_grad.methods import SERVICE
from mse_grad_server.process.exits import ListenError
from mse_grad_server.process.socket_file import SocketAccess, UnixSocketFile
from mse_grad_server.rpc.admission.interceptor import CallInterceptor
from mse_grad_server.rpc.health import Health
from mse_grad_server.rpc.open_inference.service import SERVICE as OPEN_INFERENCE
from mse_grad_server.rpc.open_inference.service import OpenInference
from mse_grad_server.rpc.reflection import add_reflection
from mse_grad_server.rpc.service import Service
from mse_grad_server.security.credentials import Rotated
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.listen_addresses import why_not_bound
from mse_grad_server.settings.model import Settings

if TYPE_CHECKING:
    from mse_grad_server.security.certificates import Certificates

__all__ = ["Listener", "ListenerOptions"]

# Time for a connection from before a change of certificates to begin its handshake; it takes microseconds.
_SETTLE_S = 0.05
# Longest time for which a connection may resume the session of an earlier one. gRPC checks no certificate then, not
# even whether it has expired, and its sessions last for days. A new configuration has new keys for them.
_SESSIONS_S = 600.0
# Bits of grpc_compression_algorithm.
_UNCOMPRESSED, _GZIP = 1 << 0, 1 << 2


@dataclass(frozen=True)
class ListenerOptions:
    """Options of a listener.

    Attributes:
        receive_limit_bytes: Largest message that gRPC receives.
        socket_access: Users who may connect to the file of a unix socket.
        reflection: Whether it describes its services.
        channelz: Whether it shows its connections and calls.
        max_connection_age_s: Age at which a connection takes no further calls; 0 for no limit.
    """

    receive_limit_bytes: int
    socket_access: SocketAccess | None = None
    reflection: bool = True
    channelz: bool = True
    max_connection_age_s: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> ListenerOptions:
        """Returns the options in `settings`."""
        return cls(
            settings.receive_limit_bytes,
            settings.socket_access,
            settings.reflection,
            settings.channelz,
            settings.max_connection_age_s,
        )


class Listener:
    """gRPC server on one address; several may share the services. Belongs to the event loop.

    Args:
        address: Address to listen on.
        services: Services with gradients.
        health: Health service.
        interceptor: Interceptor around every RPC.
        options: Options of the listener.
        certificates: Certificates for TLS; None without TLS.
        shares_port: Whether other processes of this user listen on the port too.

    Attributes:
        address: Address that it listens on; the port is known after `open`.
    """

    def __init__(
        self,
        address: Address,
        services: Sequence[Service | OpenInference],
        health: Health,
        interceptor: CallInterceptor,
        *,
        options: ListenerOptions,
        certificates: Rotated[Certificates] | None = None,
        shares_port: bool = False,
    ) -> None:
        self.address = address
        self._health = health
        self._certificates = certificates
        self._shares_port = shares_port
        self._socket_file = UnixSocketFile(address.path, options.socket_access) if address.path else None
        self._options = options
        arguments = _arguments(options.receive_limit_bytes, shares_port=shares_port)
        if options.max_connection_age_s:
            # No grace: gRPC would cut the calls off that are still under way after it. Streams end at this age by
            # themselves, and other calls are short.
            arguments.append(("grpc.max_connection_age_ms", max(1, int(1000 * options.max_connection_age_s))))
        self._grpc = grpc.aio.server(interceptors=[interceptor], options=arguments)
        self._grpc.add_generic_rpc_handlers([service.handler() for service in services])

    async def open(self) -> None:
        """Listens; raises ListenError if it cannot."""
        self._health.add_to(self._grpc)
        if self._options.reflection:
            names = (SERVICE, OPEN_INFERENCE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            add_reflection(self._grpc, names)
        if self._options.channelz:
            channelz.add_channelz_servicer(self._grpc)
        if self._socket_file is not None:
            self._socket_file.prepare()
        try:
            if self._certificates is None:
                port = self._grpc.add_insecure_port(self.address.target)
            else:
                port = self._grpc.add_secure_port(self.address.target, _credentials(self._certificates))
        except RuntimeError as cause:
            if self.address.path:
                raise ListenError(f"cannot listen on {self.address}: gRPC cannot bind it") from cause
            raise why_not_bound(self.address, shares_port=self._shares_port) from cause
        if self._socket_file is not None:
            self._socket_file.bound()
            self._socket_file.refuse_descriptors()
        else:
            self.address = self.address.with_port(port)
        await self._grpc.start()

    async def close(self, grace_s: float) -> None:
        """Stops accepting connections and cancels the RPCs that remain after `grace_s`; a later call may shorten it."""
        await self._grpc.stop(grace_s)
        if self._socket_file is not None:
            self._socket_file.remove()


def _credentials(certificates: Rotated[Certificates]) -> grpc.ServerCredentials:
    in_use, since_s = certificates.value, time.monotonic()
    asks_clients = in_use.client_ca is not None

    def changed() -> Any:  # a configuration or None, which the stubs do not know
        # gRPC calls this for each new connection, under a lock of this address. It frees the configuration that it
        # replaces, even if another connection has just left the lock to take a reference (grpc/grpc issue 36693).
        # Returning a new configuration for every connection crashes the server within seconds under many connections.
        # So this function returns one only after a change, or seldom, and waits before it does.
        nonlocal in_use, since_s
        has_old_sessions = asks_clients and time.monotonic() - since_s >= _SESSIONS_S
        if certificates.value is in_use and not has_old_sessions:
            return None
        time.sleep(_SETTLE_S)
        in_use, since_s = certificates.value, time.monotonic()
        return _configuration(in_use)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use), changed, require_client_authentication=asks_clients
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pairs = [(certificates.key, certificates.chain)]
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=certificates.client_ca)


def _arguments(receive_limit_bytes: int, *, shares_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", receive_limit_bytes),
        ("grpc.max_send_message_length", -1),
        # gRPC would expand a compressed message up to the limit of the largest method, whichever method it is for.
        # `reading` expands it within the limits of its method, and supports only gzip.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", _UNCOMPRESSED | _GZIP),
        # Limit of one connection; further RPCs wait in the client.
        ("grpc.max_concurrent_streams", 1024),
        # Limit for a client that connects and sends nothing.
        ("grpc.server_handshake_timeout_ms", 20_000),
        # Limit for a client that does not acknowledge its settings: until then their bounds do not hold.
        ("grpc.http2.settings_timeout", 10_000),
        # 0 unless workers share the port: otherwise two servers could share it, and each would get some of the RPCs.
        ("grpc.so_reuseport", int(shares_port)),
        # Clients may send keepalive pings, even without an RPC.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        # The server notices a client that vanished, and frees its resources.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
