from __future__ import annotations

import errno
import io
import json
import os
import resource
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psutil
import pytest

from mse_grad_server.metrics import connections
from mse_grad_server.metrics.endpoint import MetricsEndpoint
from mse_grad_server.metrics.pulse import Pulse
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.exits import ExitCode, ListenError
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.address import Address
from support.server.fakes import FakeClock
from support.waiting import PATIENCE_S, wait_until


def get(address: Address, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def of_a_loop_that_runs() -> Pulse:
    return Pulse(lambda: 0.0, lambda answer: answer(), hang_s=10)


def opened(
    metrics: Metrics,
    *,
    address: str = "127.0.0.1:0",
    is_ready: bool = True,
    stream: io.StringIO | None = None,
    pulse: Pulse | None = None,
) -> MetricsEndpoint:
    log = open_log("info", "json", stream=stream or io.StringIO())
    endpoint = MetricsEndpoint(
        metrics.registry,
        Address.parse(address),
        is_ready=lambda: is_ready,
        pulse=pulse or of_a_loop_that_runs(),
        log=log,
    )
    endpoint.open()
    return endpoint


def test_metrics_are_served_over_http_until_closed() -> None:
    metrics = Metrics()
    with closing(opened(metrics)) as endpoint:
        assert endpoint.address.port != 0
        metrics.elements.inc(5)
        status, page = get(endpoint.address, "/metrics")
        assert status == 200
        assert b"mse_grad_elements_total 5.0" in page
    with pytest.raises(OSError, match="refused"):
        get(endpoint.address, "/metrics")
    endpoint.close()


@pytest.mark.parametrize(("is_ready", "answer"), [(True, (200, b"ready\n")), (False, (503, b"not ready\n"))])
def test_a_probe_is_told_whether_the_server_is_ready(is_ready: bool, answer: tuple[int, bytes]) -> None:
    with closing(opened(Metrics(), is_ready=is_ready)) as endpoint:
        assert get(endpoint.address, "/ready") == answer


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_probe_is_told_that_the_process_lives_whether_or_not_it_is_ready(is_ready: bool) -> None:
    with closing(opened(Metrics(), is_ready=is_ready)) as endpoint:
        assert get(endpoint.address, "/live") == (200, b"live\n")


def test_probes_are_told_of_an_event_loop_that_hangs_until_it_runs_again() -> None:
    clock, asked = FakeClock(), list[Callable[[], None]]()
    with closing(opened(Metrics(), pulse=Pulse(clock.now, asked.append, hang_s=10))) as endpoint:
        assert get(endpoint.address, "/live") == (200, b"live\n")
        clock.advance(9)
        assert get(endpoint.address, "/live") == (200, b"live\n")
        clock.advance(1)
        for path in ("/live", "/ready"):
            assert get(endpoint.address, path) == (503, b"the event loop has not run for 10 s\n")
        assert get(endpoint.address, "/metrics")[0] == 200
        (answer,) = asked
        answer()
        for path in ("/live", "/ready"):
            assert get(endpoint.address, path)[0] == 200
            clock.advance(5)


@pytest.mark.parametrize("path", ["/ready/", "/readyz", "/healthz", "/metrics/x"])
def test_an_unknown_path_is_404_and_the_answer_names_the_known_ones(path: str) -> None:
    with closing(opened(Metrics())) as endpoint:
        assert get(endpoint.address, path) == (404, b"known paths are /metrics, /ready and /live\n")


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with closing(opened(Metrics())) as first:
        taken = str(first.address)
        with pytest.raises(ListenError, match=f"{taken}.*--metrics-listen") as error:
            opened(Metrics(), address=taken)
    assert error.value.exit_code is ExitCode.ADDRESS_IN_USE


def connected(address: Address, sent: bytes, stack: ExitStack) -> socket.socket:
    """Returns a connection over which `sent` was sent."""
    connection = stack.enter_context(socket.create_connection((address.host, address.port), timeout=PATIENCE_S))
    connection.sendall(sent)
    return connection


each_unfinished = pytest.mark.parametrize(
    "begun", [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half a request"]
)


@each_unfinished
def test_unfinished_requests_do_not_block_other_callers(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PATIENCE_S", PATIENCE_S)
    threads = threading.active_count()
    with closing(opened(Metrics())) as endpoint, ExitStack() as stack:
        half = [connected(endpoint.address, begun, stack) for _ in range(200)]
        assert get(endpoint.address, "/ready") == (200, b"ready\n")
        assert get(endpoint.address, "/metrics")[0] == 200
        assert threading.active_count() <= threads + 2
        # all but the last ones were closed for those that came after them
        assert all(connection.recv(1) == b"" for connection in half[: -connections._MOST_CONNECTIONS])


@each_unfinished
def test_an_unfinished_request_ends_after_a_while(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PATIENCE_S", 0.1)
    with closing(opened(Metrics())) as endpoint, ExitStack() as stack:
        assert connected(endpoint.address, begun, stack).recv(1) == b""


def ends_at(endpoint: MetricsEndpoint) -> int:
    """Returns how many connections the endpoint has open."""
    own = psutil.Process().net_connections("tcp")
    return sum(each.laddr.port == endpoint.address.port and bool(each.raddr) for each in own)


def is_answered(endpoint: MetricsEndpoint) -> bool:
    """Returns whether a probe is answered; False if this thread took too long to send it."""
    try:
        return get(endpoint.address, "/ready") == (200, b"ready\n")
    except OSError:
        return False


def test_a_caller_that_does_not_read_its_answer_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    for number in range(5000):  # the page has to exceed every buffer
        metrics.refused(f"{number:01000}")
    with closing(opened(metrics)) as endpoint, ExitStack() as stack:
        assert get(endpoint.address, "/ready") == (200, b"ready\n")
        monkeypatch.setattr(connections, "_PATIENCE_S", 0.2)
        reading = socket.socket()
        reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stack.enter_context(reading)
        reading.connect((endpoint.address.host, endpoint.address.port))
        reading.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: is_answered(endpoint))
        wait_until(lambda: ends_at(endpoint) == 0)


@pytest.mark.parametrize(
    "head",
    [b"hello\r\n\r\n", b"GET /ready\r\n\r\n", b"GET / SPDY/3\r\n\r\n", b"x" * 20_000, b"\x16\x03\x01\r\n\r\n"],
    ids=lambda head: repr(head[:12]),
)
def test_anything_but_an_http_request_gets_400(head: bytes) -> None:
    with closing(opened(Metrics())) as endpoint, ExitStack() as stack:
        answer = connected(endpoint.address, head, stack).makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_a_probe_may_be_written_by_hand(line_end: bytes) -> None:
    with closing(opened(Metrics())) as endpoint, ExitStack() as stack:
        head = line_end.join([b"GET /ready HTTP/1.0", b"Host: x", b"", b""])
        answer = connected(endpoint.address, head, stack).makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nready\n")


def test_a_page_that_fails_to_render_is_500_and_a_line_in_the_log() -> None:
    metrics, stream = Metrics(), io.StringIO()
    with closing(opened(metrics, stream=stream)) as endpoint:
        metrics.registry.collect = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        assert get(endpoint.address, "/metrics")[0] == 500
        assert get(endpoint.address, "/ready") == (200, b"ready\n")
    (event,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert event["event"] == "metrics_failed"
    assert "ZeroDivisionError" in event["exception"]


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Uses up every descriptor that this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 8, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_free_descriptor_a_probe_is_answered() -> None:
    stream = io.StringIO()
    with closing(opened(Metrics(), stream=stream)) as endpoint, ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.settimeout(PATIENCE_S)
        with no_free_descriptor():
            for each in sockets[:2]:  # the second connection finds the spare descriptor in use
                each.connect((endpoint.address.host, endpoint.address.port))
            wait_until(lambda: "metrics_cannot_accept" in stream.getvalue())
            sockets[2].connect((endpoint.address.host, endpoint.address.port))
            sockets[2].sendall(b"GET /ready HTTP/1.1\r\n\r\n")
            answer = b""
            while received := sockets[2].recv(4096):
                answer += received
            assert answer.startswith(b"HTTP/1.1 200 OK")
        assert get(endpoint.address, "/ready") == (200, b"ready\n")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["metrics_cannot_accept"]


def test_a_loop_that_cannot_accept_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_RETRY_S", 3600.0)
    tries: list[None] = []

    def fail(listener: socket.socket) -> None:
        tries.append(None)
        raise OSError(errno.EMFILE, "too many open files")

    with closing(opened(Metrics())) as endpoint, socket.socket() as caller:
        monkeypatch.setattr(socket.socket, "accept", fail)
        caller.connect((endpoint.address.host, endpoint.address.port))
        assert endpoint._loop is not None
        wait_until(lambda: len(tries) == 2)  # the second one without the spare descriptor
        turned = threading.Event()
        for _ in range(10):  # turns of the loop, in which the listener is readable
            turned.clear()
            endpoint._loop.call_soon_threadsafe(turned.set)
            assert turned.wait(PATIENCE_S)
        assert len(tries) == 2
