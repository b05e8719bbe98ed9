"""TLS and tokens between real processes: every path that must yield a gradient, and every path that must not."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from mse_grad.reasons import Reason
from mse_grad_client import ClientOptions, MseGradClient, MseGradError, TlsFailed, Unauthenticated, Unavailable
from mse_grad_client.options import RetryOptions
from support.server.certificates import Authority, Pair
from support.server.host_process import metrics, worker_events
from support.server.server_process import ServerProcess, running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

TOKEN = "a-token-that-is-long-enough"
EXPIRY = "mse_grad_certificate_expiry_timestamp_seconds"
ONCE = RetryOptions(max_attempts=1)


@dataclass(frozen=True)
class Guarded:
    """A server with TLS and tokens, and the files and options that a client needs.

    Attributes:
        server: The server.
        ca: The CA of its certificate.
        pair: Its certificate and key.
        tokens: Its file of tokens.
        options: Options of a client that it accepts.
    """

    server: ServerProcess
    ca: Authority
    pair: Pair
    tokens: Path
    options: ClientOptions

    @property
    def access(self) -> list[str]:
        """The same, as flags of a command."""
        return ["--tls-ca", str(self.ca.certificate), "--token-file", str(self.tokens)]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    ca, tokens = Authority(folder), folder / "tokens"
    pair = ca.issue("server")
    tokens.write_text(TOKEN)
    options = ClientOptions(tls_ca=ca.certificate, token_file=tokens, timeout_s=PATIENCE_S, retry=ONCE)
    with running_server(*pair.flags, "--token-file", str(tokens), "--log-level", "debug") as server:
        yield Guarded(server, ca, pair, tokens, options)


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MSE_GRAD_")}
    program = [sys.executable, "-m", "mse_grad_server", "--listen", "127.0.0.1:0", "--metrics-listen", "none"]
    return subprocess.run(
        [*program, *arguments], env=own, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def compute_and_check(client: MseGradClient, elements: int = 1000) -> None:
    given = operands((elements,))
    assert client.compute(*given).tobytes() == expected(*given).tobytes()


def failure(address: str, options: ClientOptions) -> MseGradError:
    """Returns the error with which a gradient fails."""
    with MseGradClient(address, options=options) as client, pytest.raises(MseGradError) as caught:
        client.compute(np.ones(3), np.ones(3), 1.0)
    return caught.value


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mse_grad_cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_gradients_arrive_over_tls_on_every_transport(guarded: Guarded) -> None:
    given = operands((70_001,))
    wanted = expected(*given).tobytes()
    with MseGradClient(guarded.server.address, options=guarded.options) as client:
        assert client.compute(*given).tobytes() == wanted
        assert client.compute_unary(*given).tobytes() == wanted
        assert [y.tobytes() for y in client.compute_many([given, given])] == [wanted] * 2
        assert client.server_info().transport == "shared_memory"
        predict, label, dout = (client.empty(each.shape) for each in given)
        predict[:], label[:], dout[:] = given
        assert client.compute(predict, label, dout).tobytes() == wanted
    with MseGradClient(
        guarded.server.address, options=replace(guarded.options, shared_memory=False, direct=False)
    ) as client:
        assert client.compute(*given).tobytes() == wanted
        assert client.server_info().transport == "stream"


def compute_in_child(client: MseGradClient) -> None:
    compute_and_check(client)
    client.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_both_keep_their_credentials(guarded: Guarded) -> None:
    with MseGradClient(guarded.server.address, options=guarded.options) as client:
        compute_and_check(client)
        child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(client,))
        child.start()
        child.join(PATIENCE_S)
        assert child.exitcode == 0
        compute_and_check(client)


def test_a_certificate_of_an_unknown_ca_is_not_trusted(guarded: Guarded, tmp_path: Path) -> None:
    options = replace(guarded.options, tls_ca=Authority(tmp_path).certificate)
    error = failure(guarded.server.address, options)
    assert isinstance(error, TlsFailed)
    assert error.reason is Reason.TLS_FAILED
    assert "is not trusted" in error.message
    assert "tls_ca" in error.message


def test_a_command_reports_a_failed_handshake_in_its_own_words_alone(guarded: Guarded, tmp_path: Path) -> None:
    ended = command("info", guarded.server.address, "--tls-ca", str(Authority(tmp_path).certificate))
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"Error: no server is ready at {guarded.server.address}: TLS_FAILED: ")
    assert "ssl_transport_security" not in ended.stderr


def test_a_certificate_for_another_name_is_not_trusted_unless_that_name_is_meant(guarded: Guarded) -> None:
    error = failure(guarded.server.address, replace(guarded.options, tls_server_name="elsewhere.example"))
    assert isinstance(error, TlsFailed)
    assert "tls_server_name" in error.message
    # the address is an IP, which the certificate does not name
    options = replace(guarded.options, tls_server_name="localhost")
    with MseGradClient(guarded.server.address, options=options) as client:
        compute_and_check(client)


def test_without_tls_the_error_says_what_may_be_missing(guarded: Guarded) -> None:
    error = failure(guarded.server.address, ClientOptions(retry=ONCE))
    assert isinstance(error, Unavailable)
    assert "tls_ca" in error.message


def test_tls_to_a_server_without_it_has_its_own_message(guarded: Guarded, server: ServerProcess) -> None:
    error = failure(server.address, guarded.options)
    assert isinstance(error, TlsFailed)
    assert "does not speak TLS" in error.message


def test_connections_that_break_off_end_nothing(guarded: Guarded) -> None:
    host, _, port = guarded.server.address.rpartition(":")

    def break_off(count: int) -> None:
        for _ in range(count):
            with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
                connection.sendall(b"\x16\x03\x01\x02")  # the beginning of a handshake

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(break_off, [1500, 1500]))
    with MseGradClient(guarded.server.address, options=guarded.options) as client:
        compute_and_check(client)


@pytest.mark.parametrize(("token", "reason"), [("", Reason.TOKEN_MISSING), (TOKEN + "x", Reason.TOKEN_UNKNOWN)])
def test_nobody_computes_without_the_token(guarded: Guarded, token: str, reason: Reason) -> None:
    error = failure(guarded.server.address, replace(guarded.options, token_file=None, token=token))
    assert isinstance(error, Unauthenticated)
    assert isinstance(error, PermissionError)
    assert error.reason is reason


def test_the_commands_accept_the_credentials_of_the_client(guarded: Guarded) -> None:
    address = guarded.server.address
    ended = command("doctor", address, "--json", *guarded.access)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout)["findings"][f"server at {address}"]
    subjects = [finding["subject"] for finding in found]
    assert subjects == ["address", "TLS", "health", "server", "transport", "workers", "gradient"]
    assert "for 90 more days" in found[1]["text"]
    ended = command("info", address, *guarded.access)
    assert ended.returncode == 0, ended.stderr
    assert "shared memory" in ended.stdout
    ended = command("info", address, "--tls-ca", str(guarded.ca.certificate))
    assert ended.returncode == 3
    assert "TOKEN_MISSING" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "subject", "advice"),
    [
        ([], "TLS", "--tls-ca"),
        (["--tls-ca", "{ca}"], "token", "--token-file"),
        (["--tls-ca", "{other}"], "TLS", "--tls-ca"),
        (["--tls-ca", "{ca}", "--tls-server-name", "elsewhere.example"], "TLS", "--tls-server-name"),
    ],
)
def test_the_doctor_says_which_flag_is_missing(
    guarded: Guarded, tmp_path: Path, flags: list[str], subject: str, advice: str
) -> None:
    files = {"ca": str(guarded.ca.certificate), "other": str(Authority(tmp_path).certificate)}
    ended = command("doctor", guarded.server.address, "--json", *(flag.format(**files) for flag in flags))
    assert ended.returncode == 1
    last = json.loads(ended.stdout)["findings"][f"server at {guarded.server.address}"][-1]
    assert (last["subject"], last["level"]) == (subject, "error")
    assert advice in last["advice"]


def rewrite(file: Path, text: str) -> None:
    """Replaces a file in one step."""
    following = file.with_suffix(".next")
    following.write_text(text)
    following.replace(file)


def test_no_secret_shows(guarded: Guarded) -> None:
    failure(guarded.server.address, replace(guarded.options, token_file=None, token=TOKEN + "x"))
    page = metrics(guarded.server)
    assert 'mse_grad_unauthenticated_total{reason="TOKEN_UNKNOWN"}' in page
    printed = start("--print-config", *guarded.pair.flags, "--token-file", str(guarded.tokens)).stdout
    assert f"token_file: {guarded.tokens}" in printed
    secrets = (TOKEN, guarded.pair.key.read_text().splitlines()[1])
    assert [secret for secret in secrets if secret in guarded.server.log + page + printed] == []
    assert TOKEN not in repr(ClientOptions(token=TOKEN))


def expiry_s(pair: Pair) -> float:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes()).not_valid_after_utc.timestamp()


def _samples(host: ServerProcess, name: str) -> list[float]:
    """Returns the value of each worker, in the order of the workers."""
    lines = sorted(
        line for line in metrics(host).splitlines() if line.startswith(f"{name}{{") and "client_ca" not in line
    )
    assert len(lines) == 2, lines
    return [float(line.rpartition(" ")[2]) for line in lines]


def test_workers_take_renewed_certificates_and_tokens_without_a_restart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("old", "new", "clients")]
    for folder in folders:
        folder.mkdir()
    old, new, clients = (Authority(folder) for folder in folders)
    pair, renewed, own = (
        old.issue("server"),
        new.issue("server", names=["localhost"], days=(-1, 30)),
        clients.issue("client"),
    )
    tokens, shown = tmp_path / "tokens", tmp_path / "shown"
    tokens.write_text(f"{TOKEN}\n")
    shown.write_text(f"{TOKEN}\n")
    flags = [*pair.flags, "--tls-client-ca", str(clients.certificate), "--token-file", str(tokens)]
    options = ClientOptions(tls_ca=old.certificate, token_file=shown, timeout_s=PATIENCE_S, **_own(own))

    def read_by_both(times: int) -> bool:
        return all(len(worker_events(host, "credentials_read", f"cpu:{at}")) == times for at in range(2))

    with (
        running_server("--workers", "2", "--ready-when", "all", *flags) as host,
        MseGradClient(host.address, options=options) as client,
    ):
        wait_until(lambda: _reaches_all(client, host))
        assert isinstance(failure(host.address, replace(options, retry=ONCE, **_own(None))), Unavailable)

        pair.replace_with(old.issue("p521", key=ec.generate_private_key(ec.SECP521R1())))
        wait_until(lambda: _samples(host, "mse_grad_credentials_stale") == [1, 1])
        with MseGradClient(host.address, options=options) as another:
            compute_and_check(another)  # with the certificate that it had before

        until_s = expiry_s(renewed)
        pair.replace_with(renewed)
        wait_until(lambda: _samples(host, EXPIRY) == [until_s] * 2)
        assert _samples(host, "mse_grad_credentials_stale") == [0, 0]
        compute_and_check(client)  # over its open connection
        assert isinstance(failure(host.address, replace(options, retry=ONCE)), TlsFailed)
        # workers still listen at 127.0.0.1, with this certificate
        by_name = host.address.replace("127.0.0.1", "localhost")
        with MseGradClient(by_name, options=replace(options, tls_ca=new.certificate)) as another:
            wait_until(lambda: _reaches_all(another, host))

        seen = len(worker_events(host, "credentials_read", "cpu:0"))
        rewrite(tokens, f"{TOKEN}\nanother-token-of-the-same\n")
        wait_until(lambda: read_by_both(seen + 1))
        rewrite(shown, "another-token-of-the-same\n")
        rewrite(tokens, "another-token-of-the-same\n")
        wait_until(lambda: read_by_both(seen + 2))
        with MseGradClient(by_name, options=replace(options, tls_ca=new.certificate)) as another:
            compute_and_check(another)
    # Each worker reports the unusable certificate, and again if it looked between the two writes of a renewal.
    assert 2 <= host.log.count('"credentials_kept"') <= 6


def _own(pair: Pair | None) -> dict[str, Any]:
    return {"tls_certificate": pair and pair.certificate, "tls_key": pair and pair.key}


def _reaches_all(client: MseGradClient, host: ServerProcess) -> bool:
    """Computes, and returns whether each worker computed a part of it."""
    before = _samples(host, "mse_grad_elements_total")
    for _ in range(4):
        compute_and_check(client)
    after = _samples(host, "mse_grad_elements_total")
    return all(now > then for now, then in zip(after, before, strict=True))


def test_a_stream_goes_on_with_the_token_that_took_the_place_of_its_own(guarded: Guarded, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.write_text(TOKEN)
    options = replace(guarded.options, token_file=shown, retry=RetryOptions())
    with MseGradClient(guarded.server.address, options=options) as client:
        compute_and_check(client)
        rewrite(shown, "another-token-of-the-same\n")
        rewrite(guarded.tokens, "another-token-of-the-same\n")
        guarded.server.wait_for_event("token_removed")
        compute_and_check(client)
        rewrite(shown, TOKEN)
        rewrite(guarded.tokens, TOKEN)
        wait_until(lambda: len([at for at in guarded.server.events if at["event"] == "token_removed"]) == 2)
        compute_and_check(client)


def test_a_client_whose_token_is_removed_no_longer_computes(guarded: Guarded) -> None:
    removed = "a-token-that-is-removed"
    options = replace(guarded.options, token_file=None, token=removed, retry=RetryOptions())
    rewrite(guarded.tokens, f"{TOKEN}\n{removed}\n")
    with MseGradClient(guarded.server.address, options=options) as client:

        def is_let_in() -> bool:
            try:
                compute_and_check(client)
            except Unauthenticated:
                return False
            return True

        wait_until(is_let_in)
        rewrite(guarded.tokens, TOKEN)
        wait_until(lambda: not is_let_in())


def test_a_unix_socket_asks_for_tokens_too(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    with running_server("--token-file", str(tokens), listen=f"unix:{tmp_path}/server.sock") as server:
        assert isinstance(failure(server.address, ClientOptions(retry=ONCE)), Unauthenticated)
        with MseGradClient(server.address, options=ClientOptions(token=TOKEN)) as client:
            compute_and_check(client)


def test_a_client_takes_its_renewed_certificate_when_it_connects_again(tmp_path: Path) -> None:
    (tmp_path / "unknown").mkdir()
    ca, unknown = Authority(tmp_path), Authority(tmp_path / "unknown")
    own, known = unknown.issue("client"), ca.issue("client")
    flags = (*ca.issue("server").flags, "--tls-client-ca", str(ca.certificate))
    options = ClientOptions(tls_ca=ca.certificate, timeout_s=PATIENCE_S, retry=ONCE, **_own(own))
    with running_server(*flags) as server, MseGradClient(server.address, options=options) as client:
        with pytest.raises(Unavailable):
            compute_and_check(client)
        own.replace_with(known)
        compute_and_check(client)
        ended = command("doctor", server.address, "--json", "--tls-ca", str(ca.certificate))
        last = json.loads(ended.stdout)["findings"][f"server at {server.address}"][-1]
        assert (last["subject"], last["level"]) == ("TLS", "error")
        assert "--tls-certificate" in last["advice"]


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_server_does_not_start_with_files_that_it_cannot_use(tmp_path: Path, workers: list[str]) -> None:
    expired = Authority(tmp_path).issue("expired", days=(-2, -1))
    ended = start(*workers, *expired.flags)
    assert ended.returncode == 8
    assert "CN=expired expired at" in ended.stderr
    assert "worker_started" not in ended.stderr
    ended = start(*workers, *Authority(tmp_path).issue("p521", key=ec.generate_private_key(ec.SECP521R1())).flags)
    assert ended.returncode == 8
    assert "secp521r1" in ended.stderr
    assert "worker_started" not in ended.stderr
    ended = start(*workers, "--token-file", str(tmp_path / "none"))
    assert ended.returncode == 8
    assert f"--token-file {tmp_path}/none: No such file or directory" in ended.stderr
