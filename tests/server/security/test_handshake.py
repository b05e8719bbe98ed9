"""Certificates and keys that gRPC's TLS supports, as determined by the handshake at the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.security.certificates import Certificates, read_certificates
from mse_grad_server.security.credentials import CredentialFiles
from mse_grad_server.security.handshake import require_handshake
from support.server.certificates import Authority, Pair


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def read(pair: Pair, ca: Authority) -> Certificates:
    return read_certificates(CredentialFiles(**pair.settings, tls_client_ca=str(ca.certificate)))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda curve: curve.name)
def test_the_curves_that_grpc_offers_are_used(ca: Authority, curve: ec.EllipticCurve) -> None:
    require_handshake(read(ca.issue("server", key=ec.generate_private_key(curve)), ca), "them")


def test_a_key_for_rsa_is_used(ca: Authority) -> None:
    require_handshake(read(ca.issue("server", key=rsa.generate_private_key(65537, 2048)), ca), "them")


def test_a_client_ca_may_have_the_name_of_the_server_ca(ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    clients = Authority(tmp_path / "clients")
    certificates = read_certificates(
        CredentialFiles(**ca.issue("server").settings, tls_client_ca=str(clients.certificate))
    )
    require_handshake(certificates, "them")


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_a_chain_is_used_however_its_lines_end(ca: Authority, line_end: bytes) -> None:
    pair = ca.issue("server")
    chain = pair.certificate.read_bytes() + ca.certificate.read_bytes()
    pair.certificate.write_bytes(b"a comment\n" + chain.replace(b"\n", line_end).rstrip())
    require_handshake(read(pair, ca), "them")


@pytest.mark.parametrize("names", [("*.example.org",), ("127.0.0.1",), ("::1",)], ids=str)
def test_names_of_each_kind_are_used(ca: Authority, names: tuple[str, ...]) -> None:
    require_handshake(read(ca.issue("server", names=names), ca), "them")


def test_a_proxy_of_the_environment_is_not_used(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    require_handshake(read(ca.issue("server"), ca), "them")


def test_a_key_that_lets_no_client_connect_is_refused(ca: Authority) -> None:
    pair = ca.issue("server", key=ec.generate_private_key(ec.SECP521R1()))
    certificates = replace(
        read(ca.issue("other"), ca), chain=pair.certificate.read_bytes(), key=pair.key.read_bytes(), name="localhost"
    )
    with pytest.raises(CredentialsError, match=r"gRPC's TLS cannot use a and b .*P-256 or P-384"):
        require_handshake(certificates, "a and b")


@pytest.mark.parametrize("field", ["chain", "key", "client_ca"])
def test_files_that_grpc_cannot_read_are_refused(ca: Authority, field: str) -> None:
    certificates = read(ca.issue("server"), ca)
    broken = replace(certificates, **{field: b"\xef\xbb\xbf" + getattr(certificates, field)})
    with pytest.raises(CredentialsError, match="gRPC's TLS cannot use them"):
        require_handshake(broken, "them")
