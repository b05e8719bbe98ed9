"""TLS to a server, looked at without gRPC, which says little of what goes wrong there."""

from __future__ import annotations

import socket
import ssl
import time

from mse_grad_client.address import host_and_port
from mse_grad_client.doctor.finding import Finding, error, ok, warning
from mse_grad_client.options import ClientOptions

__all__ = ["examine_tls", "speaks_tls"]

_SUBJECT = "TLS"
_OWN_CERTIFICATE = (
    "so does one that asks clients for certificates: name yours with --tls-certificate and --tls-key, of a CA that it "
    "trusts"
)
_DAY_S = 86400
# The alert of deploy/prometheus comes at the same time.
_SOON_DAYS = 14


def examine_tls(address: str, options: ClientOptions) -> Finding:
    """Returns what there is to say of the certificates of both sides.

    Args:
        address: "host:port" or "[ipv6]:port", which takes connections.
        options: Of TLS, whose files can be read.
    """
    host = host_and_port(address)[0].strip("[]")
    name = options.tls_server_name or host
    try:
        end_s = _certificate_end_s(address, options, name)
    except ssl.SSLCertVerificationError as failure:
        return error(
            _SUBJECT,
            f"the server's certificate is not trusted for {name}: {failure.verify_message}",
            "--tls-ca names the CA that signed it, --tls-server-name a name that it has; an expired one is renewed",
        )
    except ssl.SSLError as failure:
        if not speaks_tls(address, timeout_s=options.timeout_s):
            return error(_SUBJECT, "the server does not speak it", "leave the flags of TLS out, or look at the port")
        return error(_SUBJECT, f"the server refused this client: {failure.reason or failure}", _OWN_CERTIFICATE)
    except OSError as failure:
        return error(_SUBJECT, f"the server ended the connection: {failure}", _OWN_CERTIFICATE)
    days = (end_s - time.time()) / _DAY_S
    text = f"the server's certificate is right for {name} and holds {days:.0f} more days"
    if days < _SOON_DAYS:
        return warning(_SUBJECT, text, "renew it; the server takes new files up by itself")
    return ok(_SUBJECT, text)


def speaks_tls(address: str, *, timeout_s: float | None) -> bool:
    """Returns whether whoever is at `address`, "host:port", begins TLS; a unix socket does not."""
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
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: what is trusted need not be a root
    context.set_alpn_protocols(["h2"])
    if options.tls_ca:
        context.load_verify_locations(cafile=options.tls_ca)
    else:
        context.load_default_certs()
    if options.tls_certificate and options.tls_key:
        context.load_cert_chain(options.tls_certificate, options.tls_key, password="")
    with _connect(address, options.timeout_s) as plain, context.wrap_socket(plain, server_hostname=name) as encrypted:
        # In TLS 1.3 what the server thinks of our certificate comes only after the handshake, before HTTP/2 begins.
        if not encrypted.recv(1):
            raise ConnectionResetError("closed after the handshake")
        found = encrypted.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(found["notAfter"]))


def _connect(address: str, timeout_s: float | None) -> socket.socket:
    host, port = host_and_port(address)
    return socket.create_connection((host.strip("[]"), port), timeout_s)
