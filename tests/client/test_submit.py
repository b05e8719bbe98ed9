"""`MseGradClient.submit`: futures of calls, with the fake server at the other end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad_client import (
    CallInfo,
    ClientClosed,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    MseGradClient,
    RetryOptions,
)
from mse_grad_client.submissions import MOST_SUBMITTED
from mse_grad_client.testing import FakeServer
from support.server.server_process import running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

ONES = np.ones((2, 3), np.float32)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


def test_every_future_gets_its_gradient(server: FakeServer) -> None:
    several = [operands((3, 33 + number)) for number in range(30)]
    with server.client(chunk_bytes=64) as client:
        futures = [client.submit(*each, "sum") for each in several]
        for future, each in zip(futures, several, strict=True):
            np.testing.assert_array_equal(future.result(PATIENCE_S), expected(*each, "sum"), strict=True)
        assert all(type(future).__mro__[1] is Future for future in futures)


def test_out_is_filled_and_returned(server: FakeServer) -> None:
    out = np.empty_like(ONES)
    with server.client() as client:
        assert client.submit(ONES, 0 * ONES, 1.0, "sum", out=out).result(PATIENCE_S) is out
    np.testing.assert_array_equal(out, 2.0)


def test_an_error_is_that_of_the_future_and_names_the_call(server: FakeServer) -> None:
    with server.client() as client:
        server.fail()
        future = client.submit(ONES, ONES, 1.0, request_id="mine")
        error = future.exception(PATIENCE_S)
    assert isinstance(error, InternalError)
    assert error.request_id == "mine"


def test_invalid_operands_are_refused_at_once(server: FakeServer) -> None:
    with server.client() as client, pytest.raises(InvalidArgument):
        client.submit(ONES, ONES[:1], 1.0)


def test_a_refused_request_is_sent_again(server: FakeServer) -> None:
    with server.client(retry=RetryOptions(initial_backoff_s=0.001, max_backoff_s=0.001)) as client:
        server.refuse(Reason.SERVER_BUSY, times=2)
        client.submit(ONES, ONES, 1.0).result(PATIENCE_S)
    assert [request.state for request in server.requests] == ["failed", "failed", "answered"]


def test_many_calls_share_few_threads(server: FakeServer) -> None:
    with server.client() as client:
        server.hold()
        futures = [client.submit(ONES, ONES, 1.0) for _ in range(MOST_SUBMITTED)]
        server.wait_for_requests(MOST_SUBMITTED)
        assert sum(thread.name == "mse-grad-submitted" for thread in threading.enumerate()) <= 4
        with pytest.raises(DeadlineExceeded, match="submitted calls"):
            client.submit(ONES, ONES, 1.0, timeout_s=0.01)
        server.release()
        assert not wait(futures, PATIENCE_S).not_done
        client.submit(ONES, ONES, 1.0).result(PATIENCE_S)


@pytest.mark.parametrize("timeout_s", [None, 3600.0])
def test_cancelling_cancels_on_the_server(server: FakeServer, timeout_s: float | None) -> None:
    with server.client() as client:
        server.hold()
        futures = [client.submit(ONES, ONES, 1.0, timeout_s=timeout_s) for _ in range(10)]
        server.wait_for_requests(10)
        for future in futures[::2]:
            assert future.cancel()
            with pytest.raises(CancelledError):
                future.result(PATIENCE_S)
        wait_until(lambda: [request.state for request in server.requests] == ["cancelled", "open"] * 5)
        server.release()
        for future in futures[1::2]:
            future.result(PATIENCE_S)
    assert [request.state for request in server.requests] == ["cancelled", "answered"] * 5
    assert not futures[1].cancel(), "a future that is done is not cancelled"


def test_a_cancelled_call_under_way_is_given_up_at_once(server: FakeServer) -> None:
    with server.client() as client:
        server.hold()
        future = client.submit(ONES, ONES, 1.0)
        server.wait_for_requests(1)
        assert future.cancel()
        wait_until(lambda: server.requests[0].state == "cancelled")


def test_a_call_that_is_cancelled_between_attempts_is_not_sent_again(server: FakeServer) -> None:
    paused = threading.Event()

    class Retried:
        def call_ended(self, call: CallInfo, seconds: float, error: BaseException | None) -> None:
            ended.append(error)

        def retried(self, request_id: str, error: Exception) -> None:
            paused.set()
            assert cancelled.wait(PATIENCE_S)

        def connected(self, address: str) -> None: ...

    ended: list[Any] = []
    cancelled = threading.Event()
    retry = RetryOptions(initial_backoff_s=0.001, max_backoff_s=0.001)
    with server.client(metrics=Retried(), retry=retry) as client:
        server.refuse(Reason.SERVER_BUSY)
        future = client.submit(ONES, ONES, 1.0)
        assert paused.wait(PATIENCE_S)
        assert future.cancel()
        cancelled.set()
        wait_until(lambda: bool(ended))
    assert len(server.requests) == 1


def test_interceptors_are_around_a_submitted_call(server: FakeServer) -> None:
    ended = threading.Event()
    seen: list[CallInfo] = []

    class Seen:
        @contextmanager
        def intercept(self, call: CallInfo) -> Iterator[None]:
            seen.append(call)
            call.metadata["team"] = "vision"
            yield
            ended.set()

    with server.client(interceptors=[Seen()]) as client:
        server.hold()
        future = client.submit(ONES, ONES, 1.0, request_id="mine")
        server.wait_for_requests(1)
        assert not ended.is_set()
        server.release()
        future.result(PATIENCE_S)
        assert ended.is_set()
    assert (seen[0].method, seen[0].shape) == ("submit", (2, 3))
    assert (server.requests[0].request_id, server.requests[0].metadata) == ("mine", {"team": "vision"})


def test_closing_the_client_ends_futures_and_threads(server: FakeServer) -> None:
    client = server.client()
    server.hold()
    futures = [client.submit(ONES, ONES, 1.0) for _ in range(6)]
    server.wait_for_requests(6)
    client.close()
    for future in futures:
        assert isinstance(future.exception(PATIENCE_S), ClientClosed)
    with pytest.raises(ClientClosed):
        client.submit(ONES, ONES, 1.0)
    wait_until(lambda: not any(thread.name == "mse-grad-submitted" for thread in threading.enumerate()))


def test_without_any_thread_nothing_is_sent(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as client:
        _start_only(monkeypatch, 0)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            client.submit(ONES, ONES, 1.0)
        monkeypatch.undo()
        client.submit(ONES, ONES, 1.0, request_id="next").result(PATIENCE_S)
    assert [request.request_id for request in server.requests] == ["next"]


def test_one_thread_is_enough_if_the_system_has_no_more(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    _start_only(monkeypatch, 1)
    with server.client() as client:
        futures = [client.submit(ONES, ONES, 1.0) for _ in range(2 * MOST_SUBMITTED)]
        for future in futures:
            future.result(PATIENCE_S)


def _start_only(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Lets `submit` start so many threads, and no more."""
    start, started = threading.Thread.start, list[str]()

    def start_or_fail(thread: threading.Thread) -> None:
        if thread.name == "mse-grad-submitted":
            if len(started) == most:
                raise RuntimeError("can't start new thread")
            started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)


def test_a_client_that_nobody_holds_is_collected_with_its_threads(server: FakeServer) -> None:
    client = server.client()
    client.submit(ONES, ONES, 1.0).result(PATIENCE_S)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    wait_until(lambda: not any(thread.name == "mse-grad-submitted" for thread in threading.enumerate()))


@pytest.mark.parametrize("elements", [1000, 200_000])
def test_shared_memory_serves_submitted_calls_too(elements: int) -> None:
    predict, label, dout = operands((elements,))
    with running_server() as running, MseGradClient(running.address) as client:
        futures = [client.submit(predict, label, dout, "sum") for _ in range(20)]
        for number in range(0, 20, 3):
            futures[number].cancel()
        for future in futures:
            if not future.cancelled():
                np.testing.assert_array_equal(
                    future.result(PATIENCE_S), expected(predict, label, dout, "sum"), strict=True
                )


@pytest.mark.parametrize("is_shared", [False, True])
def test_nothing_is_written_once_a_call_under_way_was_cancelled(is_shared: bool) -> None:
    elements, mark, cancelled = 2_000_000, np.float32(7), 0
    with running_server() as process, MseGradClient(process.address) as client:
        predict, label, dout, out, other = (
            client.empty((elements,), np.float32) if is_shared else np.empty(elements, np.float32) for _ in range(5)
        )
        for operand, value in ((predict, 3), (label, 2), (dout, 1)):
            operand[...] = value
        while cancelled < 5:
            out[...] = mark
            future = client.submit(predict, label, dout, out=out)
            wait_until(lambda: out[0] != mark)
            if not future.cancel():
                future.result()
                continue
            cancelled += 1
            out[...] = mark
            client.compute(predict, label, dout, out=other)  # what the server still had to do is done then
            assert (out == mark).all()
