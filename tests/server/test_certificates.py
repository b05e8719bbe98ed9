"""What the server accepts as its certificate, and what it says of what it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from mse_grad_server.certificates import read_certificates
from mse_grad_server.config import Settings
from mse_grad_server.exits import CredentialsError, ExitCode
from support.certificates import Authority, Pair


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refused(pair: Pair, **settings: Any) -> str:
    """Returns why."""
    with pytest.raises(CredentialsError) as caught:
        read_certificates(Settings(**{**pair.settings, **settings}))
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    return str(caught.value)


def expiry_s(path: Path) -> float:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


def test_a_pair_is_read_with_its_expiry(ca: Authority) -> None:
    pair = ca.issue("server")
    read = read_certificates(Settings(**pair.settings))
    assert (read.chain, read.key, read.client_ca) == (pair.certificate.read_bytes(), pair.key.read_bytes(), None)
    assert read.expiries_s == {"server": expiry_s(pair.certificate)}


def test_the_cas_of_clients_have_an_expiry_of_their_own(ca: Authority) -> None:
    read = read_certificates(Settings(**ca.issue("server").settings, tls_client_ca=str(ca.certificate)))
    assert read.client_ca == ca.certificate.read_bytes()
    assert read.expiries_s["client_ca"] == expiry_s(ca.certificate)


def test_of_a_chain_the_first_to_expire_counts(ca: Authority) -> None:
    pair, between = ca.issue("server"), ca.issue("between", days=(-1, 3))
    pair.certificate.write_bytes(pair.certificate.read_bytes() + between.certificate.read_bytes())
    assert read_certificates(Settings(**pair.settings)).expiries_s == {"server": expiry_s(between.certificate)}


def test_the_key_shows_in_no_text(ca: Authority) -> None:
    assert "PRIVATE" not in repr(read_certificates(Settings(**ca.issue("server").settings)))


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


def test_what_is_not_valid_now_is_refused(ca: Authority) -> None:
    assert "CN=old expired at 20" in refused(ca.issue("old", days=(-2, -1)))
    assert "CN=new is valid from 20" in refused(ca.issue("new", days=(1, 2)))
