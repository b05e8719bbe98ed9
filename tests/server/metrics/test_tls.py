from __future__ import annotations

import io
import os
import select
import socket
import ssl
import subprocess
import sys
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from mse_grad_server.metrics.endpoint import MetricsEndpoint
from mse_grad_server.metrics.pulse import Pulse
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.metrics.tls import MetricsTls
from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.address import Address
from support.server.certificates import Authority, Pair
from support.waiting import PATIENCE_S


def opened(pair: Pair) -> MetricsEndpoint:
    endpoint = MetricsEndpoint(
        Metrics().registry,
        Address.parse("127.0.0.1:0"),
        is_ready=lambda: True,
        pulse=Pulse(lambda: 0.0, lambda answer: answer(), hang_s=10),
        log=open_log("info", "json", stream=io.StringIO()),
        tls=MetricsTls(str(pair.certificate), str(pair.key)),
    )
    endpoint.open()
    return endpoint


def get(endpoint: MetricsEndpoint, path: str, authority: Authority) -> str:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    url = f"https://localhost:{endpoint.address.port}{path}"
    with urllib.request.urlopen(url, timeout=PATIENCE_S, context=context) as answer:
        return str(answer.read().decode())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_metrics_and_probes_are_served_over_https(authority: Authority) -> None:
    with closing(opened(authority.issue("server"))) as endpoint:
        assert get(endpoint, "/ready", authority) == "ready\n"
        assert get(endpoint, "/live", authority) == "live\n"
        assert "mse_grad_ready" in get(endpoint, "/metrics", authority)


def test_a_caller_without_tls_gets_nothing_and_delays_no_other(authority: Authority) -> None:
    with closing(opened(authority.issue("server"))) as endpoint:
        with socket.create_connection(("127.0.0.1", endpoint.address.port), timeout=PATIENCE_S) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            with suppress(ConnectionResetError):
                assert b"HTTP" not in plain.recv(1024)
        assert get(endpoint, "/ready", authority) == "ready\n"


def test_a_changed_certificate_is_used_for_new_connections(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("server")
    with closing(opened(pair)) as endpoint:
        (tmp_path / "other").mkdir()
        other = Authority(tmp_path / "other")
        pair.replace_with(other.issue("server"))
        assert get(endpoint, "/ready", other) == "ready\n"


def test_an_unusable_change_keeps_the_former_certificate(authority: Authority) -> None:
    pair = authority.issue("server")
    with closing(opened(pair)) as endpoint:
        Path(pair.key).write_text("no key")
        os.utime(pair.key, ns=(1, 1))
        assert get(endpoint, "/ready", authority) == "ready\n"


def test_a_changed_certificate_of_the_same_time_is_used(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("server")
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    next_pair = other.issue("server")
    for path in (pair.certificate, pair.key, next_pair.certificate, next_pair.key):
        os.utime(path, ns=(1, 1))
    with closing(opened(pair)) as endpoint:
        pair.replace_with(next_pair)
        assert get(endpoint, "/ready", other) == "ready\n"


def test_a_pipe_in_the_place_of_the_key_blocks_nobody(authority: Authority) -> None:
    pair = authority.issue("server")
    with closing(opened(pair)) as endpoint:
        pair.key.unlink()
        os.mkfifo(pair.key)
        with os.fdopen(os.open(pair.key, os.O_RDWR), "wb"):  # whoever still reads it gets the end at the latest here
            assert get(endpoint, "/ready", authority) == "ready\n"


def test_a_folder_that_does_not_answer_delays_no_probe_for_long_and_keeps_nobody_from_ending(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = opened(authority.issue("server"))
    answers = Event()
    monkeypatch.setattr("mse_grad_server.metrics.tls.state_of", lambda path: answers.wait())
    try:
        for _ in range(3):
            assert get(endpoint, "/live", authority) == "live\n"
        ending = Thread(target=endpoint.close, daemon=True)
        ending.start()
        ending.join(PATIENCE_S)
        assert not ending.is_alive()
    finally:
        answers.set()


# Without a terminal OpenSSL asks at the standard input.
_PROGRAM = """
import ssl, sys
from mse_grad_server.metrics.tls import MetricsTls
from mse_grad_server.process.exits import CredentialsError
try:
    MetricsTls(*sys.argv[1:]).open()
except CredentialsError:
    print("refused")
"""


def test_nobody_is_asked_for_the_password_of_a_key(authority: Authority) -> None:
    pair = authority.issue("server", password=b"secret")
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(pair.certificate), str(pair.key)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            assert select.select([program.stdout], [], [], PATIENCE_S)[0]
            assert program.stdout.read() == b"refused\n"
        finally:
            program.kill()


def test_files_that_cannot_be_used_end_the_start(authority: Authority) -> None:
    pair = authority.issue("server")
    Path(pair.key).write_text("no key")
    with pytest.raises(CredentialsError, match="--metrics-tls"):
        opened(pair)
