"""Calls that a signal handler ends by raising, at random moments; see support.client.interrupted_caller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mse_grad_client import ClientClosed, ClientOptions, MseGradClient
from support.client.interrupted_caller import KINDS, TRANSPORTS
from support.client.interrupting import Interrupt, interrupting
from support.server.server_process import ServerProcess
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

# Processes for each transport and kind, and rounds of each. MSE_GRAD_TEST_INTERRUPTED=67,1 has 201 for each transport.
PROCESSES, ROUNDS = map(int, os.environ.get("MSE_GRAD_TEST_INTERRUPTED", "1,12").split(","))

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="its signals interrupt nothing")


@needs_signals
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_after_an_interrupt_at_any_moment_the_client_answers_and_out_is_the_callers(
    server: ServerProcess, transport: str, kind: str
) -> None:
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    for number in range(PROCESSES):
        seed = 1000 * number + 1
        command = [sys.executable, "-m", "support.client.interrupted_caller", server.address, "--transport", transport]
        command += ["--kind", kind, "--seed", str(seed), "--rounds", str(ROUNDS)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"seed {seed}: {done.stderr}"
        rounds = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(rounds) == ROUNDS
        for found in rounds:
            assert (found["again_right"], found["untouched"], found["neighbour"]) == (True, True, ""), found


@contextmanager
def interrupted_by(handle: Callable[[], None], *, until: Callable[[], bool]) -> Iterator[None]:
    """Runs a signal handler at random moments of the body, one call after another."""
    sent: list[int] = []
    handled: list[int] = []

    def handler(number: int, frame: object) -> None:
        handle()
        handled.append(number)

    def send() -> None:
        while not until():
            sent.append(signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: len(handled) == len(sent))

    before = signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@needs_signals
@pytest.mark.parametrize("shared_memory", [False, True], ids=["stream", "packets"])
def test_in_a_signal_handler_the_interrupted_client_refuses_with_a_message_and_another_computes(
    server: ServerProcess, shared_memory: bool
) -> None:
    given = operands((1000,))
    told: list[str] = []
    computed: list[bytes] = []
    options = ClientOptions(shared_memory=shared_memory)
    with MseGradClient(server.address, options=options) as client, MseGradClient(server.address) as other:

        def handle() -> None:
            computed.append(other.compute(*given).tobytes())
            try:
                client.compute(*given)
            except RuntimeError as error:
                told.append(str(error))

        with interrupted_by(handle, until=lambda: len(told) > 3):
            while len(told) <= 3:
                assert client.compute(*given).tobytes() == expected(*given).tobytes()
        assert all("signal handler" in words for words in told)
        assert set(computed) == {expected(*given).tobytes()}
        assert client.compute(*given).tobytes() == expected(*given).tobytes()


@needs_signals
@pytest.mark.parametrize("shared_memory", [False, True], ids=["stream", "packets"])
def test_a_signal_handler_may_close_the_client_that_it_interrupts(server: ServerProcess, shared_memory: bool) -> None:
    given = operands((1000,))
    before = set(threading.enumerate())
    client = MseGradClient(server.address, options=ClientOptions(shared_memory=shared_memory))
    client.compute(*given)

    def compute_on_and_on() -> None:
        while True:
            client.compute(*given)

    with interrupted_by(client.close, until=client._transport.closed.is_set), pytest.raises(ClientClosed):
        compute_on_and_on()
    wait_until(lambda: not any(thread.name.startswith("mse-grad") for thread in set(threading.enumerate()) - before))


@pytest.mark.parametrize("unary", [False, True], ids=["stream", "unary"])
def test_a_lock_of_grpc_that_an_interrupt_kept_is_released_while_the_caller_keeps_the_error(
    server: ServerProcess, unary: bool
) -> None:
    given = operands((100,))
    answers: list[bytes] = []
    with MseGradClient(server.address, options=ClientOptions(shared_memory=False, direct=False)) as client:
        compute = client.compute_unary if unary else client.compute
        with pytest.raises(Interrupt) as caught, interrupting() as raised:
            compute(*given)
        assert raised
        other = threading.Thread(target=lambda: answers.append(client.compute(*given).tobytes()), daemon=True)
        other.start()
        other.join(PATIENCE_S)
        assert not other.is_alive(), f"the thread hangs while {caught.value!r} is kept"
        assert compute(*given).tobytes() == answers[0] == expected(*given).tobytes()
