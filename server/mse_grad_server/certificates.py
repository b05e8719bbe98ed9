"""The certificate of the server, its key and the CAs of clients, read from PEM files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mse_grad_server.config import Settings
from mse_grad_server.exits import CredentialsError

__all__ = ["Certificates", "read_certificates"]

_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Certificates:
    """What TLS is made of, in PEM.

    Attributes:
        chain: The server's certificate and those between it and its CA.
        key: Its private key.
        client_ca: The CAs of clients; None where clients need no certificate.
        expiries_s: "server" and "client_ca" -> when the first certificate there expires, in seconds of Unix time.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expiries_s: Mapping[str, float]


def read_certificates(settings: Settings) -> Certificates:
    """Returns what the files of the settings hold, which fits and is valid now.

    Raises:
        CredentialsError: A file is missing, is none of its kind, does not fit or is not valid at this time.
    """
    where = f"--tls-certificate {settings.tls_certificate}"
    chain_pem = _content(settings.tls_certificate, where)
    key_pem = _content(settings.tls_key, f"--tls-key {settings.tls_key}")
    chain = _certificates(chain_pem, where)
    _require_fit(chain[0], key_pem, settings)
    expiries_s = {"server": _expiry_s(chain, where)}
    client_ca = None
    if settings.tls_client_ca:
        where = f"--tls-client-ca {settings.tls_client_ca}"
        client_ca = _content(settings.tls_client_ca, where)
        expiries_s["client_ca"] = _expiry_s(_certificates(client_ca, where), where)
    return Certificates(chain_pem, key_pem, client_ca, expiries_s)


def _content(path: str, where: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as cause:
        raise CredentialsError(f"{where}: {cause.strerror}") from cause


def _certificates(pem: bytes, where: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as cause:
        raise CredentialsError(f"{where} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)") from cause


def _require_fit(certificate: x509.Certificate, key_pem: bytes, settings: Settings) -> None:
    where = f"--tls-key {settings.tls_key}"
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError as cause:  # cryptography's word for a password that was not given
        raise CredentialsError(f"{where} has a password, which nobody could type; store it without one") from cause
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise CredentialsError(f"{where} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)") from cause
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CredentialsError(f"{where} is of a kind that gRPC does not offer; make an RSA or an EC key (P-256)")
    try:
        fits = key.public_key().public_bytes(*_SPKI) == certificate.public_key().public_bytes(*_SPKI)
    except (ValueError, UnsupportedAlgorithm):  # a key in the certificate that is none of the kinds above
        fits = False
    if not fits:
        raise CredentialsError(
            f"{where} is not the key of the first certificate in {settings.tls_certificate}; name the pair that was "
            "made together, the server's own certificate first"
        )


def _expiry_s(certificates: Iterable[x509.Certificate], where: str) -> float:
    now = datetime.now(timezone.utc)
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if end < now:
            raise CredentialsError(f"{where}: {name} expired at {end.isoformat()}; renew it")
        if begin > now:
            raise CredentialsError(f"{where}: {name} is valid from {begin.isoformat()} on; is the clock right?")
    return min(certificate.not_valid_after_utc for certificate in certificates).timestamp()
