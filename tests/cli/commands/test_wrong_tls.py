"""What the commands say of a server whose TLS does not fit the client's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mse_grad_cli.commands import mse_grad
from support.server.certificates import Authority
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
