"""Drain: a server that is asked to stop finishes its requests, on each backend and with several workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
import pytest

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1.mse_grad_pb2_grpc import MseGradServiceStub
from mse_grad_client import ClientOptions, MseGradClient, RetryOptions, Unavailable
from support.server.backends import running_on
from support.server.host_process import info, pid_of, states
from support.server.server_process import running_server
from support.values import expected, operands
from support.waiting import wait_until

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DEADLINE_S = 60.0
HALF = 1000


def finish_in_flight(address: str, interrupt: Callable[[], None]) -> None:
    """Calls `interrupt` in the middle of a gradient; the server at `address` must still compute the second half."""
    given = operands((2 * HALF,))
    messages: SimpleQueue[pb.StreamGradientsRequest | None] = SimpleQueue()

    def chunk(start: int) -> pb.GradientChunk:
        part = slice(start, start + HALF)
        predict, label, dout = (array[part].tobytes() for array in given)
        return pb.GradientChunk(id=1, offset=start, predict=predict, label=label, dout=dout)

    def requests() -> Iterator[pb.StreamGradientsRequest]:
        while (message := messages.get()) is not None:
            yield message

    with grpc.insecure_channel(address) as channel:
        answers = MseGradServiceStub(channel).StreamGradients(requests(), timeout=DEADLINE_S)
        header = pb.GradientHeader(
            id=1, dtype=pb.DATA_TYPE_FLOAT32, shape=[2 * HALF], reduction=pb.REDUCTION_MEAN, request_id="in-flight"
        )
        messages.put(pb.StreamGradientsRequest(headers=[header], chunks=[chunk(0)]))
        first_half = next(result for answer in answers for result in answer.results)

        interrupt()
        go_away = next(answer.go_away for answer in answers if answer.HasField("go_away"))
        messages.put(pb.StreamGradientsRequest(chunks=[chunk(HALF)]))
        second_half = next(result for answer in answers for result in answer.results)

        assert list(answers) == []  # the server ends the stream itself, because nothing is open on it any longer
        assert answers.code() is grpc.StatusCode.OK
        messages.put(None)

    assert go_away.last_id == 1
    assert go_away.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert first_half.y + second_half.y == expected(*given).tobytes()


@pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda number: number.name)
def test_a_request_in_flight_is_finished_and_the_exit_code_is_0(backend: str, signal_number: signal.Signals) -> None:
    with running_on(backend) as server:
        finish_in_flight(server.address, lambda: server.process.send_signal(signal_number))
        assert server.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda number: number.name)
def test_a_host_finishes_requests_that_came_through_the_common_port(signal_number: signal.Signals) -> None:
    with running_server("--workers", "2", "--ready-when", "all") as host:
        finish_in_flight(host.address, lambda: host.process.send_signal(signal_number))
        assert host.process.wait(DEADLINE_S) == 0


def test_a_worker_that_ends_alone_finishes_its_requests_and_accepts_no_new_connection() -> None:
    with running_server("--workers", "2", "--ready-when", "all") as host:
        (address, _, _), (other, _, _) = states(host.address)
        answering = info(other).instance_id

        def interrupt() -> None:
            os.kill(pid_of(host, "cpu:0"), signal.SIGTERM)
            wait_until(lambda: states(other)[0][2] == "draining")
            assert {info(host.address).instance_id for _ in range(40)} == {answering}

        finish_in_flight(address, interrupt)


@pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda number: number.name)
def test_every_caller_gets_its_gradient_or_is_told_that_no_server_is_there(
    backend: str, signal_number: signal.Signals
) -> None:
    given = operands((100_000,))
    bits = expected(*given).tobytes()
    options = ClientOptions(retry=RetryOptions(max_attempts=1))
    under_way = threading.Barrier(5)

    def call_until_refused() -> int:
        answered = 0
        try:
            while True:
                y = client.compute(*given, timeout_s=DEADLINE_S)
                assert y.tobytes() == bits
                answered += 1
                if answered == 1:
                    under_way.wait(DEADLINE_S)
        except Unavailable:
            return answered

    with running_on(backend) as server, MseGradClient(server.address, options=options) as client:
        with ThreadPoolExecutor(4) as threads:
            callers = [threads.submit(call_until_refused) for _ in range(4)]
            under_way.wait(DEADLINE_S)
            server.process.send_signal(signal_number)
            answered = [caller.result(DEADLINE_S) for caller in callers]
        assert server.process.wait(DEADLINE_S) == 0
    assert min(answered) >= 1
