"""Versions and ciphers of TLS that each port of a server accepts: found by handshakes, not read from its code."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from support.server.certificates import Authority, Pair
from support.server.server_in_loop import serving
from support.waiting import PATIENCE_S

# The policy. TLS 1.3 has only ciphers with forward secrecy and authenticated encryption; of TLS 1.2 only those count.
_OF_TLS_1_2 = re.compile(r"ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)")
_MODERN = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
_OLD = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)


def handshake(address: str, version: ssl.TLSVersion, ciphers: str) -> str | None:
    """Returns the cipher of a connection with this version and one of the ciphers; None if the server refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of old versions, which are the point
        # In this order: a minimum above the maximum is an error.
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        context.minimum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        try:
            with context.wrap_socket(connection) as secured:
                found = secured.cipher()
        except OSError:
            return None
    assert found is not None
    return str(found[0])


def accepted(address: str, version: ssl.TLSVersion) -> set[str]:
    """Returns every cipher of TLS 1.2 or older that the server accepts, by leaving out the ones found before."""
    found: set[str] = set()
    while True:
        cipher = handshake(address, version, ":".join(["ALL", *(f"!{name}" for name in sorted(found))]))
        if cipher is None or cipher in found:
            return found
        found.add(cipher)


@asynccontextmanager
async def ports(folder: Path, *, is_rsa: bool) -> AsyncIterator[dict[str, str]]:
    """Runs a server with TLS on each port, and yields their addresses."""
    key = rsa.generate_private_key(65537, 2048) if is_rsa else None
    settings: dict[str, Any] = Authority(folder).issue("server", key=key).settings
    own: dict[str, Any] = {"metrics_listen": "127.0.0.1:0", "metrics_tls": True, "direct_listen": "127.0.0.1:0"}
    async with serving(**settings, **own) as server:
        yield {
            "gRPC": str(server.server.address),
            "direct": str(server.server._direct.address),
            "metrics": str(server.server.metrics_address),
        }


@pytest.mark.parametrize("is_rsa", [False, True], ids=["EC", "RSA"])
async def test_only_modern_versions_and_ciphers_are_accepted(tmp_path: Path, is_rsa: bool) -> None:
    async with ports(tmp_path, is_rsa=is_rsa) as addresses:
        for port, address in addresses.items():
            for version in _OLD:
                assert await asyncio.to_thread(handshake, address, version, "ALL") is None, (port, version)
            of_tls_1_2 = await asyncio.to_thread(accepted, address, ssl.TLSVersion.TLSv1_2)
            assert [cipher for cipher in of_tls_1_2 if not _OF_TLS_1_2.fullmatch(cipher)] == [], port
            assert bool(of_tls_1_2) is (port != "direct")
            assert await asyncio.to_thread(handshake, address, ssl.TLSVersion.TLSv1_3, "ALL"), port


async def test_the_probe_sees_a_weak_server(tmp_path: Path) -> None:
    # A server of the standard library without the policy, so that the test above can fail.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    pair = Authority(tmp_path).issue("weak")
    context.load_cert_chain(pair.certificate, pair.key)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    host, port = server.sockets[0].getsockname()
    async with server:
        found = await asyncio.to_thread(accepted, f"{host}:{port}", ssl.TLSVersion.TLSv1_2)
        assert [cipher for cipher in found if not _OF_TLS_1_2.fullmatch(cipher)]
        assert await asyncio.to_thread(handshake, f"{host}:{port}", ssl.TLSVersion.TLSv1_1, "ALL")


def is_let_in(address: str, pair: Pair | None) -> bool:
    """Whether a port accepts this client certificate, or none, and talks to its owner."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        try:
            with context.wrap_socket(connection) as secured:
                secured.sendall(b"\x04\x00\x00\x00nope")  # gRPC answers before, a direct connection with a refusal
                return bool(secured.recv(1))  # with TLS 1.3, only here the client learns of a refused certificate
        except OSError:
            return False


async def test_a_client_certificate_has_to_be_valid_now_and_of_the_right_authority(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("server", "clients", "others")]
    for folder in folders:
        folder.mkdir()
    server_ca, clients, others = (Authority(folder) for folder in folders)
    settings: dict[str, Any] = server_ca.issue("server").settings
    settings |= {"tls_client_ca": str(clients.certificate), "direct_listen": "127.0.0.1:0"}
    pairs = {
        "valid": clients.issue("valid"),
        "expired": clients.issue("expired", days=(-2, -1)),
        "early": clients.issue("early", days=(1, 2)),
        "of another authority": others.issue("other"),
        "none": None,
    }
    async with serving(**settings) as server:
        for address in (str(server.server.address), str(server.server._direct.address)):
            let_in = {name: await asyncio.to_thread(is_let_in, address, pair) for name, pair in pairs.items()}
            assert [name for name, is_in in let_in.items() if is_in] == ["valid"], address


def session_of(context: ssl.SSLContext, address: str, session: ssl.SSLSession | None = None) -> tuple[Any, bool]:
    """Returns the session of a new connection, and whether it resumed the given one."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection,
        context.wrap_socket(connection, session=session) as secured,
    ):
        try:
            secured.sendall(b"\x04\x00\x00\x00nope")
            secured.recv(1)  # with TLS 1.3 the session comes with the first bytes
        except OSError:  # the server is not obliged to answer
            pass
        return secured.session, secured.session_reused is True


async def test_no_session_outlives_the_certificate_with_which_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mse_grad_server.rpc.listener._SESSIONS_S", 0.0)  # as if the time were over
    authority = Authority(tmp_path)
    settings: dict[str, Any] = authority.issue("server").settings
    settings |= {"tls_client_ca": str(authority.certificate), "direct_listen": "127.0.0.1:0"}
    client = authority.issue("client")
    async with serving(**settings) as server:
        address, direct = str(server.server.address), str(server.server._direct.address)
        modern = (direct, ssl.TLSVersion.TLSv1_3)
        for at, version in (*((address, version) for version in _MODERN), modern):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            context.minimum_version = context.maximum_version = version
            context.load_cert_chain(client.certificate, client.key)
            session, _ = await asyncio.to_thread(session_of, context, at)
            assert session.has_ticket is (at == address)
            _, is_resumed = await asyncio.to_thread(session_of, context, at, session)
            assert not is_resumed, (at, version)
