"""A machine that fails under a server or a client: descriptors, threads, the clock, a stopped caller.

docs/failures.md lists these and the other failures, with their tests.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from mse_grad_client import ClientOptions, DeadlineExceeded, MseGradClient, RetryOptions, Unavailable
from support.machine.faulty_libc import FaultyLibc
from support.server.server_process import running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and namespaces of Linux")

DAY_S = 86400.0
STREAM = ClientOptions(shared_memory=False, direct=False)
ONCE = ClientOptions(shared_memory=False, direct=False, retry=RetryOptions(max_attempts=1))
EACH = (ClientOptions(), ClientOptions(shared_memory=False), STREAM)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> FaultyLibc:
    return FaultyLibc(tmp_path_factory.mktemp("libc"))


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def check(client: MseGradClient, elements: int = 1000, *, timeout_s: float = PATIENCE_S) -> None:
    given = operands((elements,))
    assert client.compute(*given, timeout_s=timeout_s).tobytes() == expected(*given).tobytes()


@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_a_step_of_the_servers_clock_disturbs_no_request(faulty: FaultyLibc, clients: ExitStack, step_s: float) -> None:
    with running_server("--stall-timeout-s", "5", environment=faulty.environment) as server:
        opened = [clients.enter_context(MseGradClient(server.address, options=each)) for each in EACH]
        for client in opened:
            check(client)
        faulty.set_clock(step_s)
        try:
            for client in opened:
                check(client, timeout_s=5.0)
                check(client, 300_000, timeout_s=5.0)
            with MseGradClient(server.address) as late:
                check(late, timeout_s=5.0)
        finally:
            faulty.set_clock(0.0)
        for client in opened:
            check(client, timeout_s=5.0)
        clients.close()


class Caller:
    """A process that computes once for each line of its input, and prints a line about each."""

    def __init__(self, program: str, address: str, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, address],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self) -> str:
        """Returns its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def compute(self) -> str:
        """Lets it compute; returns its line."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.said()


@contextmanager
def calling(program: str, address: str, environment: Mapping[str, str] | None = None) -> Iterator[Caller]:
    caller = Caller(program, address, environment or {})
    with caller.process:
        yield caller
        caller.process.kill()


CLOCKED = """
import sys
from mse_grad_client import ClientOptions, DeadlineExceeded, MseGradClient
from support.values import expected, operands

given = operands((1000,))
bits = expected(*given).tobytes()
with MseGradClient(sys.argv[1], options=ClientOptions(timeout_s=30.0)) as client:
    print(client.compute(*given).tobytes() == bits, flush=True)
    for line in sys.stdin:
        print(client.compute(*given, timeout_s=5.0).tobytes() == bits, flush=True)
"""


def test_a_step_of_the_clients_clock_ends_no_call(faulty: FaultyLibc) -> None:
    with running_server() as server, calling(CLOCKED, server.address, faulty.environment) as client:
        assert client.said() == "True\n"
        try:
            for step_s in (DAY_S, -DAY_S, 0.0):
                faulty.set_clock(step_s)
                assert client.compute() == "True\n"
        finally:
            faulty.set_clock(0.0)


def test_a_server_that_can_start_no_thread_still_answers(faulty: FaultyLibc) -> None:
    with running_server("--compute-threads", "2", environment=faulty.environment) as server:
        with faulty.no_threads(), MseGradClient(server.address, options=STREAM) as client:
            for elements in (1000, 1_000_000):
                check(client, elements, timeout_s=10.0)
        with MseGradClient(server.address) as client:
            for elements in (1000, 1_000_000):
                check(client, elements)
        assert not [event for event in server.events if event["level"] in ("warning", "error")]


THREADLESS = """
import sys
from mse_grad_client import MseGradClient, MseGradError
from support.values import expected, operands

given = operands((1000,))
for line in sys.stdin:
    try:
        with MseGradClient(sys.argv[1]) as client:
            print(client.compute(*given, timeout_s=5.0).tobytes() == expected(*given).tobytes(), flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
"""


def test_a_client_that_can_start_no_thread_fails_with_an_error_and_recovers(faulty: FaultyLibc) -> None:
    with running_server() as server, calling(THREADLESS, server.address, faulty.environment) as client:
        assert client.compute() == "True\n"
        with faulty.no_threads():
            assert client.compute() == "RuntimeError can't start new thread\n"
        assert client.compute() == "True\n"


def test_without_descriptors_the_callers_that_are_connected_go_on(clients: ExitStack) -> None:
    with running_server() as server:
        process = psutil.Process(server.process.pid)
        opened = [clients.enter_context(MseGradClient(server.address, options=each)) for each in EACH]
        for client in opened:
            check(client, 100_000)
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds(), limits[1]))
        try:
            before_s = sum(process.cpu_times()[:2])
            with MseGradClient(server.address, options=ONCE) as late:
                with pytest.raises((DeadlineExceeded, Unavailable)):
                    check(late, timeout_s=2.0)
                for client in opened:
                    check(client)
                spent_s = sum(process.cpu_times()[:2]) - before_s
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
                check(late)
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        assert spent_s < 1.5, "the server spins"
        clients.close()


def test_a_stopped_caller_keeps_no_other_waiting_and_gets_its_answer_later() -> None:
    with (
        running_server() as server,
        calling(CLOCKED, server.address) as stopped,
        MseGradClient(server.address) as other,
    ):
        assert stopped.said() == "True\n"
        stopped.process.send_signal(signal.SIGSTOP)
        for _ in range(20):
            check(other, timeout_s=10.0)
        stopped.process.send_signal(signal.SIGCONT)
        assert stopped.compute() == "True\n"
