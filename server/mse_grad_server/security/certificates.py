"""Server certificate, private key and client CAs, read from PEM files and checked."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.security.credentials import CredentialFiles
from mse_grad_server.security.files import read_bounded

__all__ = ["Certificates", "read_certificates"]

_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
# Errors of cryptography beside ValueError; it parses most parts of a certificate only when they are asked for.
_MALFORMED = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True)
class Certificates:
    """Content of the TLS files, in PEM.

    Attributes:
        chain: The server's certificate and the intermediate ones up to its CA.
        key: Its private key.
        client_ca: The CAs of clients; None if clients need no certificate.
        name: A host name or IP address for which the certificate is valid.
        expiries_s: "server" and "client_ca" -> Unix time in seconds at which the first certificate there expires.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    name: str
    expiries_s: Mapping[str, float]


def read_certificates(files: CredentialFiles) -> Certificates:
    """Returns the content of the files, which match each other and are valid now.

    Raises:
        CredentialsError: A file is missing, has the wrong kind of content, does not match the others or is not valid
            now.
    """
    try:
        return _read(files)
    except (ValueError, UnsupportedAlgorithm, *_MALFORMED) as cause:
        paths = " or ".join(path for path in (files.tls_certificate, files.tls_client_ca) if path)
        raise CredentialsError(f"{paths} holds a malformed certificate: {cause}") from cause


def _read(files: CredentialFiles) -> Certificates:
    where = f"--tls-certificate {files.tls_certificate}"
    chain_pem = _content(files.tls_certificate, where)
    key_pem = _content(files.tls_key, f"--tls-key {files.tls_key}")
    chain = _certificates(chain_pem, where)
    _require_fit(chain[0], key_pem, files)
    _require_order(chain, where)
    _require_purpose(chain[0], where)
    name = _name(chain[0], where)
    expiries_s = {"server": _expiry_s(chain, where)}
    client_ca = None
    if files.tls_client_ca:
        where = f"--tls-client-ca {files.tls_client_ca}"
        client_ca = _content(files.tls_client_ca, where)
        expiries_s["client_ca"] = _expiry_s(_certificates(client_ca, where), where)
    return Certificates(chain_pem, key_pem, client_ca, name, expiries_s)


def _content(path: str, where: str) -> bytes:
    content = read_bounded(path, where)
    if content.startswith(codecs.BOM_UTF8):
        raise CredentialsError(f"{where} begins with a byte order mark, which gRPC does not read; save it without one")
    return content


def _certificates(pem: bytes, where: str) -> list[x509.Certificate]:
    # What is cut off would be missing without a word: the CA of some clients, or a part of the chain.
    marks = [line.rstrip() for line in pem.splitlines() if line.startswith(b"-----")]
    if marks and not (marks[-1].startswith(b"-----END ") and marks[-1].endswith(b"-----")):
        raise CredentialsError(f"{where} ends in the middle of a certificate")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as cause:
        raise CredentialsError(f"{where} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)") from cause


def _require_fit(certificate: x509.Certificate, key_pem: bytes, files: CredentialFiles) -> None:
    where = f"--tls-key {files.tls_key}"
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError as cause:  # cryptography's error for a key with a password
        raise CredentialsError(f"{where} has a password that the server lacks; store it without one") from cause
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise CredentialsError(f"{where} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)") from cause
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CredentialsError(f"{where} is of a kind that gRPC does not offer; make an RSA or an EC key (P-256)")
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise CredentialsError(
            f"{where} is on the curve {key.curve.name}, which gRPC does not offer; use P-256 or P-384"
        )
    try:
        fits = key.public_key().public_bytes(*_SPKI) == certificate.public_key().public_bytes(*_SPKI)
    except (ValueError, UnsupportedAlgorithm):  # the certificate has a key of another kind
        fits = False
    if not fits:
        raise CredentialsError(
            f"{where} is not the key of the first certificate in {files.tls_certificate}; name the pair that was "
            "made together, the server's own certificate first"
        )


def _require_order(chain: Iterable[x509.Certificate], where: str) -> None:
    for certificate, next_one in pairwise(chain):
        if certificate.issuer != next_one.subject:
            raise CredentialsError(
                f"{where}: {next_one.subject.rfc4514_string()} did not sign {certificate.subject.rfc4514_string()}, "
                "which stands before it; put the server's certificate first, and each before the one that signed it"
            )


def _require_purpose(certificate: x509.Certificate, where: str) -> None:
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return
    # gRPC's TLS does not accept anyExtendedKeyUsage instead.
    if x509.oid.ExtendedKeyUsageOID.SERVER_AUTH not in uses:
        raise CredentialsError(
            f"{where} is not for servers, so no client would trust it; make one whose extended key usage names them "
            "(openssl: -addext extendedKeyUsage=serverAuth), or has no such extension"
        )


def _name(certificate: x509.Certificate, where: str) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        names = x509.SubjectAlternativeName(())
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    if not hosts and not addresses:
        raise CredentialsError(
            f"{where} names no host, so no client could verify it; make one with the names and addresses that "
            "clients use (openssl: -addext subjectAltName=DNS:...,IP:...)"
        )
    return hosts[0].replace("*", "host") if hosts else str(addresses[0])


def _expiry_s(certificates: Iterable[x509.Certificate], where: str) -> float:
    now = datetime.now(UTC)
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if end < now:
            raise CredentialsError(f"{where}: {name} expired at {end.isoformat()}; renew it")
        if begin > now:
            raise CredentialsError(f"{where}: {name} is valid from {begin.isoformat()} on; is the clock right?")
    return min(certificate.not_valid_after_utc for certificate in certificates).timestamp()
