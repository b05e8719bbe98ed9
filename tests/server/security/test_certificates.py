"""Certificates that the server accepts, and the messages about those that it refuses."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from mse_grad_server.process.exits import CredentialsError, ExitCode
from mse_grad_server.security.certificates import read_certificates
from mse_grad_server.security.credentials import CredentialFiles
from support.server.certificates import Authority, Pair


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refused(pair: Pair, **settings: Any) -> str:
    """Returns the message of the refusal."""
    with pytest.raises(CredentialsError) as caught:
        read_certificates(CredentialFiles(**{**pair.settings, **settings}))
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    return str(caught.value)


def expiry_s(path: Path) -> float:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


def test_a_pair_is_read_with_its_expiry(ca: Authority) -> None:
    pair = ca.issue("server")
    read = read_certificates(CredentialFiles(**pair.settings))
    assert (read.chain, read.key, read.client_ca) == (pair.certificate.read_bytes(), pair.key.read_bytes(), None)
    assert read.expiries_s == {"server": expiry_s(pair.certificate)}


def test_the_cas_of_clients_have_their_own_expiry(ca: Authority) -> None:
    read = read_certificates(CredentialFiles(**ca.issue("server").settings, tls_client_ca=str(ca.certificate)))
    assert read.client_ca == ca.certificate.read_bytes()
    assert read.expiries_s["client_ca"] == expiry_s(ca.certificate)


def test_the_first_certificate_of_a_chain_to_expire_counts(ca: Authority) -> None:
    pair = ca.issue("server", days=(-1, 10_000))
    pair.certificate.write_bytes(pair.certificate.read_bytes() + ca.certificate.read_bytes())
    assert read_certificates(CredentialFiles(**pair.settings)).expiries_s == {"server": expiry_s(ca.certificate)}


def test_a_chain_in_another_order_is_refused(ca: Authority) -> None:
    pair, other = ca.issue("server"), ca.issue("other")
    pair.certificate.write_bytes(
        pair.certificate.read_bytes() + other.certificate.read_bytes() + ca.certificate.read_bytes()
    )
    assert "CN=other did not sign CN=server, which stands before it" in refused(pair)


@pytest.mark.parametrize("names", [("*.example.org", "127.0.0.1"), ("127.0.0.1",), ("::1",)], ids=str)
def test_a_name_of_the_certificate_is_known(ca: Authority, names: tuple[str, ...]) -> None:
    read = read_certificates(CredentialFiles(**ca.issue("server", names=names).settings))
    assert read.name == names[0].replace("*", "host")


def test_a_certificate_that_names_no_host_is_refused(ca: Authority) -> None:
    assert "subjectAltName" in refused(ca.issue("server", names=()))


@pytest.mark.parametrize(
    "other", [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], ids=["clients", "anything"]
)
def test_a_certificate_that_is_not_for_servers_is_refused(ca: Authority, other: x509.ObjectIdentifier) -> None:
    assert "extendedKeyUsage=serverAuth" in refused(ca.issue("server", uses=[other]))
    read_certificates(CredentialFiles(**ca.issue("server", uses=[other, ExtendedKeyUsageOID.SERVER_AUTH]).settings))


@pytest.mark.parametrize("file", ["certificate", "key", "client_ca"])
def test_a_byte_order_mark_is_refused(ca: Authority, file: str) -> None:
    pair = ca.issue("server")
    path = {"certificate": pair.certificate, "key": pair.key, "client_ca": ca.certificate}[file]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "byte order mark" in refused(pair, tls_client_ca=str(ca.certificate))


@pytest.mark.parametrize(
    "curve", [ec.SECP521R1(), ec.SECP224R1(), ec.SECP256K1(), ec.BrainpoolP256R1()], ids=lambda curve: curve.name
)
def test_a_curve_that_grpc_does_not_offer_is_refused(ca: Authority, curve: ec.EllipticCurve) -> None:
    text = refused(ca.issue("server", key=ec.generate_private_key(curve)))
    assert curve.name in text
    assert "P-256 or P-384" in text


def test_the_key_is_not_in_the_representation(ca: Authority) -> None:
    assert "PRIVATE" not in repr(read_certificates(CredentialFiles(**ca.issue("server").settings)))


@pytest.mark.parametrize(("name", "flag"), [("tls_certificate", "--tls-certificate"), ("tls_key", "--tls-key")])
def test_a_missing_file_is_named_with_its_flag(ca: Authority, name: str, flag: str) -> None:
    assert refused(ca.issue("server"), **{name: "/nowhere.pem"}) == f"{flag} /nowhere.pem: No such file or directory"


def test_a_key_of_another_certificate_is_refused(ca: Authority) -> None:
    pair, other = ca.issue("server"), ca.issue("other")
    text = refused(pair, tls_key=str(other.key))
    assert text.startswith(f"--tls-key {other.key} is not the key of the first certificate in {pair.certificate}")


def test_a_key_with_a_password_is_refused(ca: Authority) -> None:
    assert "has a password" in refused(ca.issue("server", password=b"secret"))


def test_a_key_that_grpc_does_not_offer_is_refused(ca: Authority) -> None:
    pair = ca.issue("server")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pair.key.write_bytes(pem)
    assert "make an RSA or an EC key" in refused(pair)


def test_files_of_another_kind_are_refused(ca: Authority) -> None:
    pair = ca.issue("server")
    assert "holds no certificate in PEM" in refused(pair, tls_certificate=str(pair.key))
    assert "holds no private key in PEM" in refused(pair, tls_key=str(pair.certificate))
    assert re.match(r"--tls-client-ca \S+ holds no certificate", refused(pair, tls_client_ca=str(pair.key)))


def test_a_certificate_that_is_not_valid_now_is_refused(ca: Authority) -> None:
    assert "CN=old expired at 20" in refused(ca.issue("old", days=(-2, -1)))
    assert "CN=new is valid from 20" in refused(ca.issue("new", days=(1, 2)))


@pytest.mark.parametrize("is_client_ca", [True, False])
@pytest.mark.parametrize("cut", [10, 200, -3])
def test_a_file_that_ends_in_the_middle_of_a_certificate_is_refused(
    ca: Authority, is_client_ca: bool, cut: int
) -> None:
    pair, content = ca.issue("server"), ca.certificate.read_bytes()
    settings = {}
    if is_client_ca:
        ca.certificate.write_bytes(content + content[:cut])
        settings["tls_client_ca"] = str(ca.certificate)
    else:
        pair.certificate.write_bytes(pair.certificate.read_bytes() + content[:cut])
    assert "ends in the middle of a certificate" in refused(pair, **settings)


def test_words_around_certificates_do_no_harm(ca: Authority) -> None:
    pair = ca.issue("server")
    pair.certificate.write_bytes(b"Certificate chain\n" + pair.certificate.read_bytes() + b"---\nServer certificate\n")
    assert read_certificates(CredentialFiles(**pair.settings)).name == "localhost"


@pytest.mark.parametrize(
    ("part", "other"),
    [
        pytest.param(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x68", id="version"),
        pytest.param(b"\x82\x09localhost", b"\x83\x09localhost", id="kind of name"),
        pytest.param(b"\x17\x0d", b"\x17\x0c", id="time"),
    ],
)
def test_a_malformed_part_of_a_certificate_is_refused(ca: Authority, part: bytes, other: bytes) -> None:
    pair = ca.issue("server")
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    assert part in der
    pair.certificate.write_text(ssl.DER_cert_to_PEM_cert(der.replace(part, other)))
    assert str(pair.certificate) in refused(pair)
