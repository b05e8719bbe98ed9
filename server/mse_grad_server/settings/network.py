"""The settings of addresses, TLS, tokens and services, and of how long connections last."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field

from mse_grad_server.process.socket_file import SocketAccess
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.field_builders import bounded, socket_access
from mse_grad_server.settings.value_types import DirectListen, Group, Listen, MetricsListen, Mode

__all__ = ["NetworkSettings"]

# 24 days: gRPC counts milliseconds in 32 bits.
_MOST_AGE_S = 2_073_600
# Age of a stream in ages of its connection. Both vary by 10%. A stream that ended before its connection took no further
# calls would be followed by another one there, and the connection would live twice as long.
_STREAM_OF_CONNECTION = 1.25


class NetworkSettings(BaseModel):
    """Part of the settings: how callers reach the server, and what it shows them."""

    insecure_listen: bool = Field(
        default=False, description="serve other machines without TLS, which exposes all traffic, tokens included"
    )
    tls_certificate: str = Field(
        default="", description="PEM file of the server's certificate chain, its own certificate first; '' for no TLS"
    )
    tls_key: str = Field(
        default="",
        validate_default=True,
        description="PEM file with the private key of the certificate, without a password",
    )
    tls_client_ca: str = Field(
        default="", description="PEM file of the CAs of clients, which then all need certificates (mTLS); '' for none"
    )
    token_file: str = Field(
        default="",
        description="file of accepted tokens, one per line, plain or as 'sha256:<hex>', each followed by its rights; ''"
        " to require no token",
    )
    listen: Listen = Field(
        default="127.0.0.1:50051",
        description="address of the service: 'host:port' (port 0 for any free one) or 'unix:/path'",
    )
    direct_listen: DirectListen = Field(
        default="auto",
        description="TCP address for requests without HTTP/2 beside the streams: 'host:port' (each further worker "
        "takes the next port), 'auto' for a free port on the host of --listen, or 'none'",
    )
    socket_mode: Mode = Field(
        default="",
        examples=["MODE"],
        description="mode of the socket files of a unix address, such as '660'; '' for what the umask leaves",
    )
    socket_group: Group = Field(
        default="",
        description="group of these files, by name or number; '' for the server's own group",
        examples=["GROUP"],
    )
    metrics_listen: MetricsListen = Field(
        default="127.0.0.1:9464", description="HTTP address of the metrics: 'host:port', or 'none'"
    )
    metrics_insecure_listen: bool = Field(
        default=False,
        description="serve metrics and probes to other machines without TLS; gradients still need --insecure-listen "
        "for that",
    )
    metrics_tls: bool = Field(
        default=False,
        description="serve metrics and probes over HTTPS, with --tls-certificate and --tls-key; callers need no "
        "certificate",
    )
    reflection: bool = Field(
        default=True, description="describe the services to tools such as grpcurl (gRPC server reflection)"
    )
    channelz: bool = Field(
        default=True, description="show the connections and calls of the server to callers (gRPC channelz)"
    )
    max_stream_age_s: float = bounded(
        0.0,
        least=0,
        most=_MOST_AGE_S,
        text="age, within 10%, at which a stream takes no further requests, finishes those it has and ends; its client "
        "opens another; 0 for no limit",
    )
    max_connection_age_s: float = bounded(
        0.0,
        least=0,
        most=_MOST_AGE_S,
        text="age, within 10%, at which a connection takes no further calls and closes once those it has are over; "
        "its streams end at 1.1 to 1.4 times this age; 0 for no limit",
    )

    @property
    def direct_address(self) -> Address | None:
        """The address of direct connections; None if there are none."""
        if self.direct_listen != "auto":
            return None if self.direct_listen == "none" else Address.parse(self.direct_listen)
        service = Address.parse(self.listen)
        return None if service.path else service.with_port(0)

    @property
    def stream_age_s(self) -> float:
        """The age at which a stream ends; infinite without a limit."""
        ages_s = (self.max_stream_age_s, _STREAM_OF_CONNECTION * self.max_connection_age_s)
        return min((age_s for age_s in ages_s if age_s), default=math.inf)

    @property
    def socket_access(self) -> SocketAccess:
        """The users who may connect to the socket files of a unix address."""
        return socket_access(self.socket_mode, self.socket_group)
