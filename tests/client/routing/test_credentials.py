"""Credentials that a client sends, and its errors about files that it cannot use."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from mse_grad.reasons import Reason
from mse_grad_client import ClientOptions, MseGradClient, TlsFailed, Unauthenticated
from mse_grad_client.routing.credentials import Credentials
from support.server.certificates import Authority

TOKEN = "a-token-that-is-long-enough"
SHOWN = (("authorization", f"Bearer {TOKEN}"),)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/a"])
def test_a_token_stays_on_this_host(address: str) -> None:
    assert Credentials(ClientOptions(token=TOKEN), given=address).metadata(address) == SHOWN


def test_a_token_goes_to_other_machines_over_tls_or_by_an_explicit_option() -> None:
    with pytest.raises(ValueError, match="insecure_token=True"):
        MseGradClient("192.0.2.1:1", options=ClientOptions(token=TOKEN))
    for options in (ClientOptions(token=TOKEN, tls=True), ClientOptions(token=TOKEN, insecure_token=True)):
        assert Credentials(options, given="192.0.2.1:1").metadata("192.0.2.1:1") == SHOWN


def test_a_worker_elsewhere_that_a_server_here_names_is_shown_no_token() -> None:
    credentials = Credentials(ClientOptions(token=TOKEN), given="127.0.0.1:1")
    assert credentials.metadata("192.0.2.1:2") == ()


def test_a_file_of_a_token_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    credentials = Credentials(ClientOptions(token_file=file), given="unix:/a")
    assert credentials.metadata("unix:/a") == SHOWN
    file.write_text("another")
    assert credentials.metadata("unix:/a") == (("authorization", "Bearer another"),)


@pytest.mark.parametrize("content", [b"", b"two words", b"a\nb", "ü".encode(), b"\xff", None])
def test_a_file_without_one_token_is_refused_and_not_shown(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unauthenticated, match=f"token_file {file}") as caught:
        MseGradClient("unix:/a", options=ClientOptions(token_file=file))
    assert caught.value.reason is Reason.TOKEN_MISSING
    assert "two words" not in str(caught.value)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="go together"):
        ClientOptions(tls_certificate="a.pem")
    with pytest.raises(ValueError, match="exclude each other"):
        ClientOptions(token=TOKEN, token_file="a")


def test_files_of_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("client")
    locked = Authority(tmp_path).issue("locked", password=b"secret")
    other = Authority(tmp_path).issue("other")
    marked = tmp_path / "marked.pem"
    marked.write_bytes(codecs.BOM_UTF8 + pair.certificate.read_bytes())
    wrong = {
        f"tls_ca {marked} begins with a byte order mark": ClientOptions(tls_ca=marked),
        "tls_ca /nowhere: No such file": ClientOptions(tls_ca="/nowhere"),
        f"tls_ca {pair.key} holds no certificate": ClientOptions(tls_ca=pair.key),
        "tls_key /nowhere: No such file": ClientOptions(tls_certificate=pair.certificate, tls_key="/nowhere"),
        f"tls_key {other.key} are not a pair": ClientOptions(tls_certificate=pair.certificate, tls_key=other.key),
        f"tls_key {locked.key} are not a pair": ClientOptions(tls_certificate=locked.certificate, tls_key=locked.key),
    }
    for words, options in wrong.items():
        with pytest.raises(TlsFailed) as caught:
            MseGradClient("127.0.0.1:1", options=options)
        assert words in caught.value.message
        assert "None" not in caught.value.message
        assert caught.value.reason is Reason.TLS_FAILED


def test_a_unix_socket_needs_no_tls_whatever_the_options_say() -> None:
    with MseGradClient("unix:/a", options=ClientOptions(tls_ca="/nowhere")) as client:
        assert client.options.uses_tls


def test_a_worker_elsewhere_that_a_unix_socket_names_is_shown_no_token() -> None:
    credentials = Credentials(ClientOptions(token=TOKEN, tls=True), given="unix:/a")
    assert credentials.metadata("192.0.2.1:2") == ()
    credentials.channel("192.0.2.1:2", "dns:///192.0.2.1:2").close()


def test_a_changed_file_changes_the_state(tmp_path: Path) -> None:
    ca = Authority(tmp_path).certificate
    credentials = Credentials(ClientOptions(tls_ca=ca), given="127.0.0.1:1")
    before = credentials.state()
    assert credentials.state() == before
    Authority(tmp_path, "another").certificate.replace(ca)
    assert credentials.state() != before
