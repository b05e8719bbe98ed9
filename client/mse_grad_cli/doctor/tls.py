"""Check of TLS to a server without gRPC, whose messages about TLS say little."""

from __future__ import annotations

import socket
import ssl
import time

from mse_grad_cli.doctor.finding import Finding, error, ok, warning
from mse_grad_client.options import ClientOptions
from mse_grad_client.routing.address import host_and_port

__all__ = ["examine_tls", "speaks_tls"]

_SUBJECT = "TLS"
_OWN_CERTIFICATE = (
    "a server that asks clients for certificates does this: name yours with --tls-certificate and --tls-key, from a CA "
    "that the server trusts"
)
_DAY_S = 86400
# The alert of deploy/prometheus has the same threshold.
_SOON_DAYS = 14


def examine_tls(address: str, options: ClientOptions) -> Finding:
    """Returns the finding about the certificates of both sides.

    Args:
        address: "host:port" or "[ipv6]:port" that accepts connections.
        options: Options of TLS with readable files.
    """
    host = host_and_port(address)[0].strip("[]")
    name = options.tls_server_name or host
    try:
        end_s = _certificate_end_s(address, options, name)
    except ssl.SSLCertVerificationError as failure:
        return error(
            _SUBJECT,
            f"the server's certificate is not trusted for {name}: {failure.verify_message}",
            "name the CA that signed it with --tls-ca, or a name in it with --tls-server-name; renew it if it expired",
        )
    except ssl.SSLError as failure:
        if not speaks_tls(address, timeout_s=options.timeout_s):
            return error(_SUBJECT, "the server does not use TLS", "leave out the TLS flags, or check the port")
        return error(_SUBJECT, f"the server rejected this client: {failure.reason or failure}", _OWN_CERTIFICATE)
    except OSError as failure:
        return error(_SUBJECT, f"the server ended the connection: {failure}", _OWN_CERTIFICATE)
    days = (end_s - time.time()) / _DAY_S
    text = f"the server's certificate is valid for {name} and for {days:.0f} more days"
    if days < _SOON_DAYS:
        return warning(_SUBJECT, text, "renew it; the server reads new files by itself")
    return ok(_SUBJECT, text)


def speaks_tls(address: str, *, timeout_s: float | None) -> bool:
    """Returns whether the peer at `address`, "host:port", begins TLS; False for a unix socket."""
    if address.startswith("unix:"):
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _connect(address, timeout_s) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def _certificate_end_s(address: str, options: ClientOptions, name: str) -> float:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # like gRPC, which trusts non-root certificates too
    context.set_alpn_protocols(["h2"])
    if options.tls_ca:
        context.load_verify_locations(cafile=options.tls_ca)
    else:
        context.load_default_certs()
    if options.tls_certificate and options.tls_key:
        context.load_cert_chain(options.tls_certificate, options.tls_key, password="")
    with _connect(address, options.timeout_s) as plain, context.wrap_socket(plain, server_hostname=name) as encrypted:
        # In TLS 1.3 the server judges our certificate only after the handshake, before HTTP/2 begins.
        if not encrypted.recv(1):
            raise ConnectionResetError("closed after the handshake")
        found = encrypted.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(found["notAfter"]))


def _connect(address: str, timeout_s: float | None) -> socket.socket:
    host, port = host_and_port(address)
    return socket.create_connection((host.strip("[]"), port), timeout_s)
