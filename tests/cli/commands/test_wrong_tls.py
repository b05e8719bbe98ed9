"""What the commands say of a server whose TLS does not fit the client's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mse_grad_cli.commands import mse_grad
from support.server.certificates import Authority, Pair
from support.server.server_process import ServerProcess, running_server


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    pair = Authority(tmp_path_factory.mktemp("ca")).issue("server")
    with running_server(*pair.flags, metrics_listen="none") as process:
        yield process


def test_health_says_that_the_certificate_is_not_trusted(encrypted: ServerProcess, tmp_path: Path) -> None:
    other = Authority(tmp_path).certificate
    result = CliRunner().invoke(mse_grad, ["health", encrypted.address, "--tls-ca", str(other)])
    assert result.exit_code == 3
    assert "is not trusted" in result.output
    assert "TSI_PROTOCOL_FAILURE" not in result.output


def test_doctor_names_the_missing_tls_and_no_other_cause(encrypted: ServerProcess) -> None:
    result = CliRunner().invoke(mse_grad, ["doctor", encrypted.address])
    assert "the server uses TLS, and this client does not" in result.output
    assert "another service" not in result.output


def doctor(address: str, authority: Authority, own: Pair | None = None) -> str:
    flags = () if own is None else own.flags
    result = CliRunner().invoke(mse_grad, ["doctor", address, "--tls-ca", str(authority.certificate), *flags])
    return " ".join(result.output.split())


def test_doctor_says_that_a_server_does_not_use_tls(server: ServerProcess, tmp_path: Path) -> None:
    assert "the server does not use TLS -> leave out the TLS flags" in doctor(server.address, Authority(tmp_path))


def test_doctor_warns_of_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with running_server(*authority.issue("server", days=(-1, 7)).flags, metrics_listen="none") as process:
        assert "renew it; the server reads new files by itself" in doctor(process.address, authority)


def test_doctor_tries_the_certificate_of_the_client_at_a_server_that_asks_for_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    flags = (*authority.issue("server").flags, "--tls-client-ca", str(authority.certificate))
    with running_server(*flags, metrics_listen="none") as process:
        assert "the server's certificate is valid for" in doctor(process.address, authority, authority.issue("client"))
        (tmp_path / "other").mkdir()
        stranger = Authority(tmp_path / "other", "other").issue("client")
        for own in (None, stranger):
            assert "a server that asks clients for certificates does this" in doctor(process.address, authority, own)


@pytest.mark.parametrize("command", ["info", "health", "doctor"])
def test_a_file_of_certificates_that_is_missing_ends_with_2_and_is_named(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(mse_grad, [command, "127.0.0.1:1", "--tls-ca", str(tmp_path / "gone.pem")])
    assert result.exit_code == 2
    assert "gone.pem" in "".join(result.output.split())


@pytest.mark.parametrize("command", ["info", "health", "doctor"])
def test_a_certificate_without_its_key_ends_with_2(command: str, tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("client")
    result = CliRunner().invoke(mse_grad, [command, "127.0.0.1:1", "--tls-certificate", str(pair.certificate)])
    assert result.exit_code == 2
    assert "tls_key" in result.output
