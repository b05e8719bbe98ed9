from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from support.server.certificates import Authority
from support.server.health_server import health_server
from support.server.server_process import running_server

PROCESS_TIMEOUT_S = 60


def probe(*flags: str, **variables: str) -> tuple[int, str]:
    """Runs the command; returns its exit code and its output on stderr."""
    # The environment names proxies, as in Docker; no proxy listens there.
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSE_GRAD_")}
    ended = subprocess.run(
        [sys.executable, "-m", "mse_grad_server", "probe", *flags],
        env={**inherited, **proxies, **variables},
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def test_flags_variables_and_the_yaml_file_name_the_server(tmp_path: Path) -> None:
    with running_server() as server:
        file = tmp_path / "settings.yaml"
        file.write_text(f"listen: {server.address}\n")
        assert probe("--listen", server.address) == (0, "")
        assert probe(MSE_GRAD_LISTEN=server.address) == (0, "")
        assert probe("--config", str(file)) == (0, "")
        assert probe(MSE_GRAD_CONFIG=str(file)) == (0, "")
        address = server.address
    code, printed = probe("--listen", address)
    assert code == 1
    assert printed.startswith(f"mse-grad-server: probe: {address}: UNAVAILABLE")


def test_a_server_on_every_address_is_asked_at_the_loopback() -> None:
    with running_server("--insecure-listen", listen="0.0.0.0:0") as server:
        port = server.address.rpartition(":")[2]
        assert probe("--insecure-listen", "--listen", f"0.0.0.0:{port}") == (0, "")


def test_a_unix_socket_is_asked(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/a%20b.sock"
    with running_server(listen=listen):
        assert probe("--listen", listen) == (0, "")
    assert probe("--listen", listen)[0] == 1


def test_with_several_workers_their_common_address_is_asked() -> None:
    with running_server("--workers", "2") as host:
        assert probe("--listen", host.address, "--workers", "2") == (0, "")


def test_tls_needs_no_more_than_the_settings_of_the_server(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server")
    with running_server(*pair.flags) as server:
        assert probe("--listen", server.address, *pair.flags) == (0, "")
        assert probe("--listen", server.address)[0] == 1


def test_a_server_with_another_certificate_does_not_count(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.issue("server"), authority.issue("other")
    with running_server(*pair.flags) as server:
        code, printed = probe("--listen", server.address, *other.flags)
        assert code == 1
        assert "UNAVAILABLE" in printed


def test_mtls_of_several_workers_is_asked_at_their_metrics_port(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    flags = (*authority.issue("server").flags, "--tls-client-ca", str(authority.certificate), "--workers", "2")
    with running_server(*flags) as server:
        address = server.metrics_address
        assert probe("--listen", server.address, *flags, "--metrics-listen", address) == (0, "")
    code, printed = probe(*flags, "--metrics-listen", address)
    assert (code, "Connection refused" in printed) == (1, True)
    code, printed = probe(*flags, "--metrics-listen", "none")
    assert (code, "--metrics-listen" in printed) == (1, True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_metrics_over_tls_are_asked_for_with_the_servers_own_certificate(tmp_path: Path, workers: str) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server", names=["mse-grad.example"])
    flags = (*pair.flags, "--tls-client-ca", str(authority.certificate), "--workers", workers, "--metrics-tls")
    with running_server(*flags) as server:
        asked = ("--listen", server.address, "--metrics-listen", server.metrics_address)
        assert probe(*asked, *flags) == (0, "")
        code, printed = probe(*asked, *flags, *authority.issue("other").flags)
        assert (code, "CERTIFICATE_VERIFY_FAILED" in printed) == (1, True)


def test_a_server_that_is_not_ready_is_named_so() -> None:
    with health_server(health_pb2.HealthCheckResponse.NOT_SERVING) as address:
        assert probe("--listen", address) == (1, f"mse-grad-server: probe: {address}: NOT_SERVING\n")


def test_a_server_that_never_answers_fails_the_probe_in_time() -> None:
    with health_server(None) as address:
        code, printed = probe("--listen", address)
        assert code == 1
        assert f"{address}: DEADLINE_EXCEEDED" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--listen", "nowhere"), "an address is 'host:port'"),
        (("--listen", "127.0.0.1:0"), "a server needs a fixed port to be probed"),
        (("--window-chunks", "0", "--workers", "-1"), "--workers is '-1'"),
    ],
)
def test_wrong_settings_fail_with_one_line_and_code_1(flags: tuple[str, ...], words: str) -> None:
    code, printed = probe(*flags)
    assert (code, printed.count("\n"), words in printed) == (1, 1, True)


def test_an_unusable_certificate_fails_with_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, nameless, empty = authority.issue("server"), authority.issue("nameless", names=()), tmp_path / "empty.pem"
    empty.touch()
    for certificate, key, words in (
        (nameless.certificate, nameless.key, "names no host"),
        (tmp_path / "none.pem", pair.key, "No such file"),
        (empty, pair.key, "PEM"),
    ):
        code, printed = probe("--tls-certificate", str(certificate), "--tls-key", str(key))
        assert (code, printed.count("\n"), words in printed) == (1, 1, True), printed
