"""Direct connections between real processes, and what keeps one from standing: no request ever fails of it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mse_grad.frames import head
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_cli.doctor import Level, examine_server
from mse_grad_client import ClientOptions, DeadlineExceeded, MseGradClient, Unauthenticated
from mse_grad_client.direct import link
from mse_grad_client.routing import connection as connections
from support.client.scripted_server import ScriptedServer
from support.server.certificates import Authority
from support.server.host_process import metrics
from support.server.server_process import ServerProcess, running_server, stopped
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

DIRECT = ClientOptions(shared_memory=False)
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server("--log-level", "debug") as process:
        yield process


def is_direct(client: MseGradClient) -> bool:
    return client.server_info().transport == "direct"


def compute_and_check(client: MseGradClient, elements: int = 1000, **options: Any) -> None:
    given = operands((elements,))
    assert client.compute(*given, **options).tobytes() == expected(*given).tobytes()


def elements_out(server: ServerProcess, transport: str) -> float:
    """Returns how many elements of gradients have left by a transport."""
    name = re.escape(f'mse_grad_transferred_elements_total{{direction="out",transport="{transport}"}}')
    found = re.search(rf"^{name} (\S+)", metrics(server), re.MULTILINE)
    return 0.0 if found is None else float(found[1])


@pytest.mark.parametrize("elements", [0, 1, 1000, 70_001, 2_000_003])
def test_requests_of_every_size_take_it(server: ServerProcess, elements: int) -> None:
    with MseGradClient(server.address, options=DIRECT) as client:
        wait_until(lambda: is_direct(client))
        before = {transport: elements_out(server, transport) for transport in ("direct", "stream")}
        compute_and_check(client, elements)
        given = operands((elements,))
        for y in client.compute_many([given] * 3):
            assert y.tobytes() == expected(*given).tobytes()
        assert elements_out(server, "direct") == before["direct"] + 4 * elements
        assert elements_out(server, "stream") == before["stream"]


def test_requests_do_not_wait_for_it(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request begins to connect, and takes the stream of the RPC."""
    may_connect = threading.Event()

    def connect(host: str, port: int, *, timeout_s: float) -> socket.socket:
        assert may_connect.wait(PATIENCE_S)
        return socket.create_connection((host, port), timeout_s)

    monkeypatch.setattr(connections, "connect", connect)
    with MseGradClient(server.address, options=DIRECT) as client:
        before = elements_out(server, "stream")
        for _ in range(3):
            compute_and_check(client)
        assert elements_out(server, "stream") == before + 3000
        may_connect.set()
        wait_until(lambda: is_direct(client))


def test_it_is_tried_again_once_the_system_has_a_thread_for_it(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, failed = threading.Thread.start, list[str]()

    def start_later(thread: threading.Thread) -> None:
        if thread.name == "mse-grad-direct" and not failed:
            failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    monkeypatch.setattr(link, "_FIRST_PAUSE_S", 0.0)
    with MseGradClient(server.address, options=DIRECT) as client:
        compute_and_check(client)
        wait_until(lambda: is_direct(client))
    assert failed


def test_the_doctor_and_the_log_tell_of_it(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "_PATIENCE_S", PATIENCE_S)
    with caplog.at_level(logging.DEBUG, "mse_grad_client"):
        findings = {finding.subject: finding for finding in examine_server(server.address, DIRECT)}
    assert (findings["transport"].level, findings["transport"].text) == (Level.OK, "direct")
    assert f"directly connected to {server.address}" in caplog.messages


def test_a_system_without_its_calls_uses_the_stream(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IS_SUPPORTED", False)
    with MseGradClient(server.address, options=DIRECT) as client:
        compute_and_check(client)
        assert client.server_info().transport == "stream"


def test_options_and_settings_switch_it_off(server: ServerProcess) -> None:
    with MseGradClient(server.address, options=replace(DIRECT, direct=False)) as client:
        compute_and_check(client)
        info = client.server_info()
        assert (info.transport, info.direct_failure) == ("stream", "")
    with (
        running_server("--direct-listen", "none") as other,
        MseGradClient(other.address, options=DIRECT) as client,
    ):
        compute_and_check(client)
        assert client.server_info().transport == "stream"


def test_every_worker_has_one() -> None:
    given = operands((1000,))
    elements = r'^mse_grad_transferred_elements_total{direction="out",transport="direct",worker="cpu:[01]"} (\S+)'
    with (
        running_server("--workers", "2", "--direct-listen", "127.0.0.1:0") as host,
        MseGradClient(host.address, options=DIRECT) as client,
    ):

        def have_both_computed() -> bool:
            for y in client.compute_many([given] * 100):
                assert y.tobytes() == expected(*given).tobytes()
            found = re.findall(elements, metrics(host), re.MULTILINE)
            return len(found) == 2 and all(float(number) > 0 for number in found)

        wait_until(have_both_computed)


def test_it_has_the_tls_and_the_token_of_its_stream(tmp_path: Path) -> None:
    ca, tokens = Authority(tmp_path), tmp_path / "tokens"
    pair, own = ca.issue("server"), ca.issue("client")
    tokens.write_text(f"{TOKEN}\nanother-token-of-this-server\n")
    options = replace(
        DIRECT,
        tls_ca=ca.certificate,
        tls_certificate=own.certificate,
        tls_key=own.key,
        token=TOKEN,
        timeout_s=PATIENCE_S,
    )
    flags = (*pair.flags, "--tls-client-ca", str(ca.certificate), "--token-file", str(tokens))
    with running_server(*flags) as server, MseGradClient(server.address, options=options) as client:
        wait_until(lambda: is_direct(client))
        for elements in (1000, 2_000_003):
            compute_and_check(client, elements)
        port = int(server.event("ready")["direct_listen"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as plain:  # no word in the clear
            plain.settimeout(PATIENCE_S)
            plain.sendall(head(4) + b"open")
            answer = plain.recv(1000)
            assert answer == b"" or answer[0] == 0x15  # an alert of TLS
        renewed = Authority(tmp_path, "renewed")
        pair.replace_with(renewed.issue("next"))
        wait_until(lambda: "credentials_read" in server.log)
        compute_and_check(client)  # over its open connection
        with MseGradClient(server.address, options=replace(options, tls_ca=renewed.certificate)) as another:
            wait_until(lambda: is_direct(another))
            compute_and_check(another)
        tokens.write_text("another-token-of-this-server\n")
        wait_until(lambda: _is_refused(client))


def _is_refused(client: MseGradClient) -> bool:
    try:
        compute_and_check(client)
    except Unauthenticated:
        return True
    return False


def test_a_deadline_and_a_cancellation_reach_the_server(server: ServerProcess) -> None:
    with MseGradClient(server.address, options=DIRECT) as client:
        wait_until(lambda: is_direct(client))
        given = operands((2_000_003,))
        out = np.full(2_000_003, 7.0, np.float32)
        with stopped(server.process), pytest.raises(DeadlineExceeded):
            client.compute(*given, out=out, timeout_s=0.05)
        out[:] = 7.0
        compute_and_check(client)
        assert is_direct(client)
        assert (out == 7.0).all()


def compute_in_child(client: MseGradClient) -> None:
    compute_and_check(client)
    wait_until(lambda: is_direct(client))
    compute_and_check(client)
    client.close()


def test_after_a_fork_both_have_their_own(server: ServerProcess) -> None:
    with MseGradClient(server.address, options=DIRECT) as client:
        wait_until(lambda: is_direct(client))
        child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(client,))
        child.start()
        compute_and_check(client)
        child.join(PATIENCE_S)
        assert child.exitcode == 0
        wait_until(lambda: is_direct(client))


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose connections nobody accepts; further ones hang, as behind a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        for _ in range(2):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is bound, so that no other process gets it, and refuses connections."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def answering_port(answer: bytes) -> Iterator[int]:
    """A port that answers every connection with the same bytes, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                with accepted:
                    accepted.settimeout(PATIENCE_S)
                    accepted.recv(1000)
                    accepted.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


@contextmanager
def port_of_another_server() -> Iterator[int]:
    with running_server() as other:
        yield int(other.event("ready")["direct_listen"].rpartition(":")[2])


_OF_ANOTHER = pb.StreamGradientsResponse(opened=pb.StreamOpened(instance_id="another")).SerializeToString()
OBSTACLES: dict[str, Callable[[], Any]] = {
    "closed": closed_port,
    "silent": silent_port,
    "http": lambda: answering_port(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "nothing": lambda: answering_port(b""),
    "half a message": lambda: answering_port(head(100) + b"half"),
    "far too large": lambda: answering_port(b"\xff" * 8),
    "no protobuf": lambda: answering_port(head(3) + b"\xff\xff\xff"),
    "another instance": lambda: answering_port(head(len(_OF_ANOTHER)) + _OF_ANOTHER),
    "another server": port_of_another_server,
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_requests_go_on_over_grpc_whatever_is_in_the_way(obstacle: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mse_grad_client")
    with OBSTACLES[obstacle]() as port:
        offer = pb.DirectOffer(port=port, secret=bytes(32), max_message_bytes=2**20)
        with ScriptedServer(direct=offer) as server, MseGradClient(server.address, options=DIRECT) as client:
            for _ in range(20):
                compute_and_check(client)
            connection = client._transport._session.pool.given
            link, stream = connection._direct, connection._stream
            assert link is not None
            assert stream is not None
            if obstacle != "silent":
                link.wait(stream, PATIENCE_S)
                assert not link._attempts[stream].is_trying
                failure = link.failure(stream)
                assert f"no direct connection to {server.address}, so requests take the stream: {failure}" in (
                    caplog.messages
                )
                begin = "no connection to port {}: " if obstacle == "closed" else "port {} answers, but does not open "
                assert failure.startswith(begin.format(port))
                if obstacle == "another server":
                    assert failure.endswith("does not show instance_id and secret of an open stream of this server")
            assert link.beside(stream) is None
            assert f"port {port}" in link.failure(stream)
            compute_and_check(client)
            assert server.streams == 1


def tried(client: MseGradClient) -> str:
    """Returns why the first attempt at a direct connection failed."""
    compute_and_check(client)
    connection = client._transport._session.pool.given
    link, stream = connection._direct, connection._stream
    assert link is not None
    assert stream is not None
    assert not link.wait(stream, PATIENCE_S)
    return link.failure(stream)


@pytest.mark.parametrize(
    ("host", "port"), [("a" * 100, 80), ("..", 80), ("a\0b", 80), ("127.0.0.1", 70_000), ("127.0.0.1", 2**32 - 1)]
)
def test_an_offer_that_names_no_place_is_a_failed_attempt(host: str, port: int) -> None:
    offer = pb.DirectOffer(host=host, port=port, secret=bytes(32), max_message_bytes=2**20)
    with ScriptedServer(direct=offer) as server, MseGradClient(server.address, options=DIRECT) as client:
        assert tried(client).startswith(f"no connection to port {port} of ")


@pytest.mark.parametrize("is_near", [False, True])
def test_only_a_server_of_this_machine_may_lead_to_it(is_near: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could have the client send bytes of its choice to services that trust this machine."""
    monkeypatch.setattr(connections, "is_own", lambda address: is_near)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        sent: list[bytes] = []

        def serve() -> None:
            with listener.accept()[0] as accepted:
                accepted.settimeout(PATIENCE_S)
                sent.append(accepted.recv(1000))

        service = threading.Thread(target=serve)
        service.start()
        offer = pb.DirectOffer(host="localhost", port=listener.getsockname()[1], secret=b"s" * 32)
        with ScriptedServer(direct=offer) as server, MseGradClient(server.address, options=DIRECT) as client:
            failure = tried(client)
        service.join(PATIENCE_S)
    assert (b"s" * 32 in sent[0]) is is_near
    assert failure.endswith("an address of this one, which the client refuses") is not is_near


def test_no_server_has_the_client_send_more_than_a_greeting_to_a_place_of_its_choice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        offer = pb.DirectOffer(port=listener.getsockname()[1], secret=b"s" * 1_000_000)
        with ScriptedServer(direct=offer) as server, MseGradClient(server.address, options=DIRECT) as client:
            assert "asks for a greeting of 10000" in tried(client)
            with pytest.raises(BlockingIOError):
                listener.accept()


class Cut:
    """Connections to the server through a relay, which it cuts after a number of bytes; close it."""

    def __init__(self) -> None:
        self.left_bytes = 10_000_000
        self.is_cut = threading.Event()
        self.made = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def connect(self, host: str, port: int, *, timeout_s: float) -> socket.socket:
        self.made += 1
        there = socket.create_connection((host, port))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname(), timeout_s)
            theirs, _ = listener.accept()
        self._sockets += (there, theirs)
        for source, sink in ((theirs, there), (there, theirs)):
            self._threads.append(threading.Thread(target=self._pass, args=(source, sink)))
            self._threads[-1].start()
        return ours

    def close(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for each in self._sockets:
            each.close()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # the other direction was cut
            while data := source.recv(65536):
                self.left_bytes -= len(data)
                if self.left_bytes < 0:
                    self.is_cut.set()
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):  # it has ended already
                end.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_is_cut_in_the_middle_of_a_message_costs_nobody_a_gradient(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mse_grad_client")
    cut = Cut()
    monkeypatch.setattr(connections, "connect", cut.connect)
    with closing(cut), MseGradClient(server.address, options=DIRECT) as client:
        wait_until(lambda: is_direct(client))
        cut.left_bytes = 5_000_000
        given = operands((500_000,))
        for y in client.compute_many([given] * 10):
            assert y.tobytes() == expected(*given).tobytes()
        assert cut.is_cut.is_set()
        compute_and_check(client, 500_000)
        info = client.server_info()
        assert info.transport == "stream"  # until the next stream
        assert info.direct_failure == "it was lost; the next stream brings another one"
        told = f"no direct connection to {server.address}, so requests take the stream: {info.direct_failure}"
        assert caplog.messages.count(told) == 1
        assert cut.made == 1


def test_it_ends_when_its_client_does(server: ServerProcess) -> None:
    with MseGradClient(server.address, options=DIRECT) as client:
        wait_until(lambda: is_direct(client))
    port = int(server.event("ready")["direct_listen"].rpartition(":")[2])
    wait_until(lambda: _connections_at(server, port) == 0)


def _connections_at(server: ServerProcess, port: int) -> int:
    """Returns how many established connections the server has at its direct port."""
    with open(f"/proc/{server.process.pid}/net/tcp", encoding="ascii") as table:
        lines = [line.split() for line in table][1:]
    inodes = {os.readlink(found) for found in _descriptors(server.process.pid)}
    return sum(
        int(line[1].rpartition(":")[2], 16) == port and line[3] == "01" and f"socket:[{line[9]}]" in inodes
        for line in lines
    )


def _descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [f"{folder}/{name}" for name in os.listdir(folder) if os.path.islink(f"{folder}/{name}")]


@pytest.mark.slow
def test_ten_thousand_hostile_greetings_cost_no_request_anything(server: ServerProcess) -> None:
    port = int(server.event("ready")["direct_listen"].rpartition(":")[2])
    rng = np.random.default_rng(1)
    greetings = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        head(256) + rng.bytes(256),
        head(2**32 - 1),
        head(40) + b"\x0a\x04",
        rng.bytes(1000),
    ]
    with MseGradClient(server.address, options=DIRECT) as client:
        wait_until(lambda: is_direct(client))
        for number in range(10_000):
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as stranger:
                stranger.sendall(greetings[number % len(greetings)])
            if number % 100 == 0:
                compute_and_check(client)
        compute_and_check(client)
        assert is_direct(client)
    with MseGradClient(server.address, options=DIRECT) as another:
        wait_until(lambda: is_direct(another))
        compute_and_check(another)


def test_the_line_of_readiness_names_the_port(server: ServerProcess) -> None:
    lines = [json.loads(line) for line in server.log.splitlines() if '"ready"' in line]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", lines[0]["direct_listen"])
