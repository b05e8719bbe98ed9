"""The fake server for users' own tests, with the real client above it."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, DType
from mse_grad_client import DeadlineExceeded, InternalError, MseGradClient, ResourceExhausted, RetryOptions, Unavailable
from mse_grad_client.testing import FakeServer
from support.values import expected, operands

ONCE = RetryOptions(max_attempts=1)
SOON = RetryOptions(initial_backoff_s=0.001, max_backoff_s=0.001)
ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 33)])
def test_gradients_have_the_bits_of_the_formula(shape: tuple[int, ...], reduction: str, dtype: DType) -> None:
    predict, label, dout = operands(shape, dtype)
    wanted = expected(predict, label, dout, reduction)
    with FakeServer() as server, server.client(chunk_bytes=64) as client:
        for compute in (client.compute, client.compute_unary):
            np.testing.assert_array_equal(compute(predict, label, dout, reduction), wanted, strict=True)
        for y in client.compute_many([(predict, label, dout)] * 3, reduction):
            np.testing.assert_array_equal(y, wanted, strict=True)


def test_it_needs_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    with FakeServer() as server, server.client() as client:
        client.compute(ONES, ONES, ONES)


def test_it_records_requests() -> None:
    with FakeServer() as server, server.client() as client:
        client.compute(ONES, ONES, ONES, "sum", request_id="mine", metadata={"team": "vision"})
        client.compute_unary(ONES, ONES, ONES, "mean", request_id="yours", metadata={"team": "sound"})
        streamed, unary = server.requests
    assert (streamed.method, streamed.request_id, streamed.metadata) == ("StreamGradients", "mine", {"team": "vision"})
    assert (unary.method, unary.request_id, unary.metadata) == ("ComputeGradient", "yours", {"team": "sound"})
    for record, reduction in ((streamed, "sum"), (unary, "mean")):
        assert (record.shape, record.dtype, record.reduction) == ((2, 3), "float32", reduction)
        assert record.state == "answered"


def test_refused_requests_are_sent_again_if_the_reason_allows_it() -> None:
    with FakeServer() as server, server.client(retry=SOON) as client:
        server.refuse(Reason.SERVER_BUSY, times=2, retry_delay_s=0.001)
        client.compute(ONES, ONES, ONES, request_id="mine")
        assert [(one.state, one.request_id) for one in server.requests] == [
            ("failed", "mine"),
            ("failed", "mine"),
            ("answered", "mine"),
        ]


@pytest.mark.parametrize("method", ["compute", "compute_unary"])
def test_a_refusal_has_reason_text_and_request_id(method: str) -> None:
    with FakeServer() as server, server.client(retry=ONCE) as client:
        server.refuse(Reason.SERVER_BUSY, retry_delay_s=1.5, message="come back")
        with pytest.raises(ResourceExhausted, match="come back") as raised:
            getattr(client, method)(ONES, ONES, ONES, request_id="mine")
        error = raised.value
        assert (error.reason, error.request_id, error.retry_delay_s) == (Reason.SERVER_BUSY, "mine", 1.5)
        server.fail()
        with pytest.raises(InternalError):
            getattr(client, method)(ONES, ONES, ONES)


def test_held_answers_come_in_order_after_the_release() -> None:
    predict, label, dout = operands((3, 33))
    with FakeServer() as server, server.client(chunk_bytes=64) as client, ThreadPoolExecutor(4) as threads:
        server.hold()
        waiting = [threads.submit(client.compute, predict, label, dout, "sum") for _ in range(4)]
        server.wait_for_requests(4)
        assert not any(one.done() for one in waiting)
        server.release()
        for one in waiting:
            np.testing.assert_array_equal(one.result(), expected(predict, label, dout, "sum"), strict=True)


@pytest.mark.parametrize("method", ["compute", "compute_unary"])
def test_a_late_answer_is_a_deadline_exceeded(method: str) -> None:
    with FakeServer() as server, server.client() as client:
        server.delay(3600)
        with pytest.raises(DeadlineExceeded):
            getattr(client, method)(ONES, ONES, ONES, timeout_s=0.05)
        server.delay(0)


def test_a_draining_server_finishes_what_it_has_and_takes_nothing_new() -> None:
    with FakeServer() as server, server.client(retry=ONCE) as client, ThreadPoolExecutor(1) as threads:
        server.hold()
        accepted = threads.submit(client.compute, ONES, ONES, ONES)
        server.wait_for_requests(1)
        server.drain()
        assert not client.server_info().ready
        with pytest.raises(Unavailable) as raised:
            client.compute(ONES, ONES, ONES)
        assert raised.value.reason is Reason.DRAINING
        server.release()
        accepted.result()
        server.resume()
        client.compute(ONES, ONES, ONES)


def test_a_lost_connection_is_opened_again() -> None:
    with FakeServer() as server, server.client(retry=SOON) as client:
        client.compute(ONES, ONES, ONES)
        server.disconnect()
        client.compute(ONES, ONES, ONES)
        assert [one.state for one in server.requests] == ["answered", "answered"]


def test_code_that_makes_its_own_client_gets_there_by_the_options() -> None:
    with FakeServer() as server, MseGradClient(server.address, options=server.options(user_agent="mine")) as client:
        assert client.wait_ready(timeout_s=30).device == "fake"


def test_nothing_runs_on_after_the_end() -> None:
    before = set(threading.enumerate())
    with FakeServer() as server, server.client() as client:
        client.compute(ONES, ONES, ONES)
        client.close()
        started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        thread.join(30)
        assert not thread.is_alive(), thread.name
