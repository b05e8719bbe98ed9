"""Behaviour of the client when a stream, a server or a process ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from mse_grad.codec import Header, StreamRequest
from mse_grad.reasons import Reason
from mse_grad_client import (
    ClientClosed,
    ClientOptions,
    DeadlineExceeded,
    MseGradClient,
    ResourceExhausted,
    RetryOptions,
    Unavailable,
)
from support.client.scripted_server import LIMITS, ScriptedServer, answer, answer_all, gone_away, refused
from support.server.server_process import running_server
from support.values import expected, operands

pytestmark = pytest.mark.usefixtures("each_call")

SMALL_CHUNKS = ClientOptions(chunk_bytes=64)
ONE_ATTEMPT = ClientOptions(retry=RetryOptions(max_attempts=1))


def compute_and_check(client: MseGradClient, elements: int = 100, *, timeout_s: float | None = 60.0) -> None:
    predict, label, dout = operands((elements,))
    y = client.compute(predict, label, dout, timeout_s=timeout_s)
    np.testing.assert_array_equal(y, expected(predict, label, dout))


def break_after_one_answer(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    yield answer({}, next(requests))
    raise ConnectionAbortedError("the script breaks the stream")


def test_a_broken_stream_is_opened_again_and_the_request_sent_again() -> None:
    with ScriptedServer(break_after_one_answer, answer_all) as server:
        with MseGradClient(server.address, options=SMALL_CHUNKS) as client:
            # gRPC reports an exception in a handler as UNKNOWN, which is never retried: the caller sees it.
            with pytest.raises(Exception, match="the script breaks the stream"):
                compute_and_check(client)
            compute_and_check(client)
        assert server.streams == 2


def end_after_one_answer(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    yield answer({}, next(requests))


def test_a_request_cut_off_midway_is_sent_again_as_a_whole() -> None:
    with ScriptedServer(end_after_one_answer, answer_all) as server:
        with MseGradClient(server.address, options=SMALL_CHUNKS) as client:
            compute_and_check(client)
        assert server.streams == 2


def test_the_result_is_right_if_out_is_an_operand_and_the_stream_breaks() -> None:
    predict, label, dout = operands((100,))
    wanted = expected(predict, label, dout)
    with (
        ScriptedServer(end_after_one_answer, answer_all) as server,
        MseGradClient(server.address, options=SMALL_CHUNKS) as client,
    ):
        np.testing.assert_array_equal(client.compute(predict, label, dout, out=predict), wanted)


def go_away_at_once(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    next(requests)
    yield gone_away(0)
    next(requests, None)


def test_a_request_that_a_draining_server_never_took_goes_to_another_stream() -> None:
    with ScriptedServer(go_away_at_once, answer_all) as server:
        with MseGradClient(server.address) as client:
            compute_and_check(client)
        assert server.streams == 2


def refuse_once(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    request = next(requests)
    yield refused(request.headers[0].id, Reason.SERVER_BUSY, "too many bytes", retry_delay_ms=10)
    yield from answer_all(requests)


def test_a_request_to_a_busy_server_is_retried() -> None:
    with ScriptedServer(refuse_once) as server, MseGradClient(server.address) as client:
        compute_and_check(client)
        assert server.streams == 1


def test_a_request_that_was_refused_for_lack_of_memory_begins_with_one_chunk_and_then_opens_its_window() -> None:
    chunks: list[int] = []

    def refuse_and_count(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
        received = 0
        while received < LIMITS.window_chunks:  # the first window comes whole
            received += len((request := next(requests)).chunks)
        yield refused(1, Reason.SERVER_BUSY, "too many bytes", retry_delay_ms=10)
        headers: dict[int, Header] = {}
        for request in requests:
            chunks.append(len(request.chunks))
            yield answer(headers, request)

    with ScriptedServer(refuse_and_count) as server, MseGradClient(server.address, options=SMALL_CHUNKS) as client:
        compute_and_check(client, 20 * 16)  # 20 chunks of 64 bytes
    assert chunks[0] == 1
    assert sum(chunks) == 20
    assert max(chunks) <= LIMITS.window_chunks
    assert len(chunks) < 20


def test_without_retries_a_busy_server_is_an_error() -> None:
    with ScriptedServer(refuse_once) as server, MseGradClient(server.address, options=ONE_ATTEMPT) as client:
        with pytest.raises(ResourceExhausted, match="too many bytes") as caught:
            compute_and_check(client)
        assert caught.value.reason is Reason.SERVER_BUSY
        assert caught.value.retry_delay_s == pytest.approx(0.01)
        compute_and_check(client)


def test_a_restarted_server_is_found_again() -> None:
    with ScriptedServer() as server:
        with MseGradClient(server.address) as client:
            for _ in range(3):
                compute_and_check(client)
                server.stop()
                server.start()
            compute_and_check(client)
        assert server.streams == 4


def test_no_server_is_unavailable_and_names_the_address() -> None:
    with MseGradClient("127.0.0.1:1", options=ONE_ATTEMPT) as client:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1") as caught:
            compute_and_check(client)
        assert isinstance(caught.value, ConnectionError)
        assert caught.value.reason is Reason.CONNECTION_LOST


class Silence:
    """A script that receives requests and answers none until the test ends it."""

    def __init__(self) -> None:
        self.taken = threading.Event()
        self.speak = threading.Event()

    def __call__(self, requests: Iterator[StreamRequest]) -> Iterator[bytes]:
        headers: dict[int, Header] = {}
        for request in requests:
            self.taken.set()
            self.speak.wait(60)
            yield answer(headers, request)


def test_a_silent_server_costs_at_most_the_timeout() -> None:
    silence = Silence()
    with ScriptedServer(silence) as server, MseGradClient(server.address) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            compute_and_check(client, timeout_s=0.2)
        assert time.monotonic() - started >= 0.2
        assert isinstance(caught.value, TimeoutError)
        silence.speak.set()
        compute_and_check(client)


def test_closing_wakes_callers_that_wait() -> None:
    silence = Silence()
    with ScriptedServer(silence) as server, ThreadPoolExecutor(1) as threads:
        client = MseGradClient(server.address)
        waiting: Future[None] = threads.submit(compute_and_check, client)
        assert silence.taken.wait(60)
        client.close()
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result(60)
        with pytest.raises(ClientClosed):
            compute_and_check(client)
        silence.speak.set()


def test_a_client_that_is_dropped_ends_its_threads() -> None:
    with ScriptedServer() as server:
        others = set(threading.enumerate())
        client = MseGradClient(server.address)
        compute_and_check(client)
        readers = [thread for thread in set(threading.enumerate()) - others if thread.name == "mse-grad-reader"]
        assert readers
        del client
        for reader in readers:
            reader.join(60)
            assert not reader.is_alive()


def compute_in_child(client: MseGradClient) -> None:
    compute_and_check(client)
    os._exit(0)


# The warning is about the threads of this process, which are the subject of the test.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_parent_and_child_of_a_fork_both_continue_to_compute() -> None:
    # The server needs its own process: gRPC's server may not survive in a process that forks.
    with running_server() as server, MseGradClient(server.address) as client, ThreadPoolExecutor(2) as threads:
        compute_and_check(client)
        go_on = threading.Event()

        def keep_computing() -> int:
            done = 0
            while not go_on.is_set():
                compute_and_check(client, 2000)
                done += 1
            return done

        busy = [threads.submit(keep_computing) for _ in range(2)]
        try:
            for _ in range(5):
                child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(client,))
                child.start()
                child.join(60)
                assert child.exitcode == 0
                compute_and_check(client)
        finally:
            go_on.set()
        assert all(each.result(60) > 0 for each in busy)
