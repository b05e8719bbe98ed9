"""Certificates for the tests, generated when needed; each key takes a fraction of a millisecond."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

__all__ = ["Authority", "Pair", "contexts_in"]

NAMES = ("localhost", "127.0.0.1")
# Python 3.13 trusts no CA without a key usage, and no certificate without the identifier of its CA's key.
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key.

    Attributes:
        certificate: PEM file.
        key: PEM file.
    """

    certificate: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """The server's flags that select it."""
        return ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))

    @property
    def settings(self) -> dict[str, Any]:
        """The same as settings of the server and options of the client."""
        return {"tls_certificate": str(self.certificate), "tls_key": str(self.key)}

    def replace_with(self, other: Pair) -> None:
        """Replaces the files with another pair's, as an operator does who renews a certificate."""
        other.certificate.replace(self.certificate)
        other.key.replace(self.key)


class Authority:
    """A CA in a folder.

    Attributes:
        certificate: PEM file of the CA's own certificate.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        own = _builder(self._name, self._name, days=(-1, 3650)).public_key(self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        own = own.add_extension(_SIGNS_CERTIFICATES, critical=True)
        own = own.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(_pem(own.sign(self._key, hashes.SHA256())))

    def issue(
        self,
        name: str,
        *,
        names: Sequence[str] = NAMES,
        days: tuple[float, float] = (-1, 90),
        password: bytes = b"",
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
        uses: Sequence[x509.ObjectIdentifier] = (),
    ) -> Pair:
        """Returns a new pair.

        Args:
            name: Name of the files, and the certificate's common name.
            names: DNS names and IP addresses that it is for; none for a certificate without subjectAltName.
            days: Begin and end of its validity, in days from now.
            password: Password of the key; b"" for none.
            key: None for a new one.
            uses: Its extended key usage; none for a certificate without.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = _builder(subject, self._name, days=days).public_key(key.public_key())
        certificate = certificate.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if names:
            certificate = certificate.add_extension(
                x509.SubjectAlternativeName([_name(at) for at in names]), critical=False
            )
        if uses:
            certificate = certificate.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pair.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return pair


def _builder(subject: x509.Name, issuer: x509.Name, *, days: tuple[float, float]) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.serial_number(x509.random_serial_number())
    begin, end = (now + timedelta(days=number) for number in days)
    return builder.not_valid_before(begin).not_valid_after(end)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def contexts_in(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Returns the context of a client and that of the server it trusts, with new files in `folder`."""
    authority = Authority(folder)
    pair = authority.issue("server")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    return ssl.create_default_context(cafile=str(authority.certificate)), server
