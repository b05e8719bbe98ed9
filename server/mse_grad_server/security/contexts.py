"""TLS contexts of the standard library: the versions and ciphers of the server, and its certificate's rotation."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mse_grad_server.security.credentials import Rotated

if TYPE_CHECKING:
    from mse_grad_server.security.certificates import Certificates

__all__ = ["RotatedContext", "server_context"]

# Ciphers of TLS 1.2: forward secrecy and authenticated encryption alone, as in gRPC's own TLS. Every cipher of TLS 1.3
# has both.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(least: ssl.TLSVersion) -> ssl.SSLContext:
    """Returns a context without a certificate, for TLS of version `least` or later.

    Each connection shakes hands in full. One that resumed a session would keep a client's certificate in use after it
    has expired: OpenSSL looks at it only once.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.minimum_version = least
    context.set_ciphers(_CIPHERS)
    return context


class RotatedContext:
    """Context for TLS 1.3 with the certificate, key and client CA that gRPC uses now.

    Args:
        certificates: The certificates.
    """

    def __init__(self, certificates: Rotated[Certificates]) -> None:
        self._certificates = certificates
        self._in_use: Certificates | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Returns the context for a new connection."""
        certificates = self._certificates.value
        if self._context is None or certificates is not self._in_use:
            self._context = _context(certificates)
            self._in_use = certificates
        return self._context


def _context(certificates: Certificates) -> ssl.SSLContext:
    context = server_context(ssl.TLSVersion.TLSv1_3)
    with _file_of(certificates.chain) as chain, _file_of(certificates.key) as key:
        context.load_cert_chain(chain, key)
    if certificates.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        with _file_of(certificates.client_ca) as client_ca:
            context.load_verify_locations(client_ca)
    return context


@contextmanager
def _file_of(pem: bytes) -> Iterator[str]:
    """Yields the path of a file with `pem`, which only this user can read; on Linux it is on no disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mse-grad-tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem)
            file.flush()
            yield file.name
