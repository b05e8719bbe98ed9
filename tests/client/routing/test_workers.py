"""One client that uses every worker of a server, by the addresses that the server names."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mse_grad.codec import StreamRequest
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import ClientOptions, MseGradClient, RetryOptions, Unavailable
from support.client.scripted_server import (
    Script,
    ScriptedServer,
    answer_all,
    break_off,
    go_away,
    refuse_all,
)
from support.client.scripted_workers import ScriptedWorkers, compute_until
from support.values import expected, operands
from support.waiting import PATIENCE_S

# A retry after this wait would exceed the time-out, so the client has to retry at once.
NO_WAIT = ClientOptions(
    retry=RetryOptions(max_attempts=2, initial_backoff_s=10 * PATIENCE_S, max_backoff_s=10 * PATIENCE_S)
)


def client_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name in ("mse-grad-discovery", "mse-grad-reader")}


def until_all_were_reached(client: MseGradClient, workers: ScriptedWorkers) -> None:
    before = workers.received
    compute_until(client, lambda: all(now > then for now, then in zip(workers.received, before, strict=True)))


def test_every_worker_is_reached_over_one_stream() -> None:
    with ScriptedWorkers.of(8) as workers, MseGradClient(workers.address) as client:
        until_all_were_reached(client, workers)
        before = workers.received
        for _ in range(16):
            client.compute(*operands((100,)))
        assert [now - then for now, then in zip(workers.received, before, strict=True)] == [2] * 8
        assert [server.streams for server in workers.servers] == [1] * 8


def test_server_info_names_every_worker_with_its_state() -> None:
    with ScriptedWorkers.of(2) as workers, MseGradClient(workers.address) as client:
        workers.states[1] = pb.WORKER_STATE_RECOVERING
        found = client.server_info()
        assert [(at.address, at.device, at.state) for at in found.endpoints] == [
            (workers.servers[0].address, "npu:0", "ready"),
            (workers.servers[1].address, "npu:1", "recovering"),
        ]


def test_a_client_that_asks_for_server_info_first_reaches_every_worker_too() -> None:
    with ScriptedWorkers.of(3) as workers, MseGradClient(workers.address) as client:
        client.server_info()
        until_all_were_reached(client, workers)


def test_only_the_given_address_is_used_if_the_options_say_so() -> None:
    options = ClientOptions(all_workers=False)
    before = client_threads()
    with ScriptedWorkers.of(2) as workers, MseGradClient(workers.address, options=options) as client:
        compute_until(client, lambda: workers.received[0] == 50)
        assert workers.received[1] == 0
        assert workers.times_asked == 0
        assert [thread.name for thread in client_threads() - before] == ["mse-grad-reader"]


def test_a_server_of_one_worker_is_used_at_the_given_address() -> None:
    with ScriptedServer() as server:
        elsewhere = pb.Endpoint(address="127.0.0.1:1", device="cpu", state=pb.WORKER_STATE_READY)
        asked = threading.Event()

        def info() -> pb.GetServerInfoResponse:
            asked.set()
            return pb.GetServerInfoResponse(endpoints=[elsewhere])

        server.info = info
        with MseGradClient(server.address) as client:
            compute_until(client, asked.is_set)
            compute_until(client, lambda: len(server.requests) >= 50)
        assert server.streams == 1


def test_workers_that_do_not_answer_are_skipped() -> None:
    with ScriptedServer() as server:
        names = [pb.Endpoint(address=f"127.0.0.1:{port}", device="npu", state=pb.WORKER_STATE_READY) for port in (1, 2)]
        server.info = lambda: pb.GetServerInfoResponse(endpoints=names)
        with MseGradClient(server.address, options=NO_WAIT) as client:
            compute_until(client, lambda: len(server.requests) >= 50)


def test_another_server_at_a_workers_address_gets_nothing() -> None:
    with ScriptedWorkers.of(2) as workers, ScriptedServer() as stranger:
        asked = threading.Event()

        def info() -> pb.GetServerInfoResponse:
            asked.set()
            own = pb.Endpoint(address="127.0.0.1:1", device="cpu", state=pb.WORKER_STATE_READY)
            return pb.GetServerInfoResponse(endpoints=[own])

        stranger.info = info
        workers.endpoints.append(
            pb.Endpoint(address=stranger.address, device="npu:2", state=pb.WORKER_STATE_READY),
        )
        with MseGradClient(workers.address) as client:
            compute_until(client, asked.is_set)
            until_all_were_reached(client, workers)
            assert stranger.streams == 0


@pytest.mark.parametrize("script", [break_off, refuse_all, go_away])
def test_a_request_that_one_worker_does_not_answer_goes_to_another_at_once(script: Script) -> None:
    with ScriptedWorkers(answer_all, script) as workers, MseGradClient(workers.address, options=NO_WAIT) as client:
        until_all_were_reached(client, workers)


def test_without_retries_it_is_an_error() -> None:
    once = ClientOptions(retry=RetryOptions(max_attempts=1))
    with ScriptedWorkers(answer_all, refuse_all) as workers, MseGradClient(workers.address, options=once) as client:
        with pytest.raises(Unavailable, match="the device is repaired") as caught:
            until_all_were_reached(client, workers)
        assert caught.value.reason is Reason.DEVICE_UNAVAILABLE


def test_a_worker_that_is_not_ready_is_left_out_until_it_is() -> None:
    with ScriptedWorkers.of(3) as workers:
        workers.states[1] = pb.WORKER_STATE_STARTING
        with MseGradClient(workers.address) as client:
            compute_until(client, lambda: workers.received[2] > 0)
            compute_until(client, lambda: workers.times_asked >= 6)
            assert workers.received[1] == 0
            workers.states[1] = pb.WORKER_STATE_READY
            until_all_were_reached(client, workers)


def test_a_worker_that_drains_is_used_again_when_it_is_back() -> None:
    with ScriptedWorkers(answer_all, go_away) as workers, MseGradClient(workers.address) as client:
        drained = workers.servers[1]
        compute_until(client, lambda: drained.streams >= 1)
        compute_until(client, lambda: drained.streams >= 3)


def test_a_killed_worker_costs_no_request_and_is_used_again_when_it_is_back() -> None:
    with ScriptedWorkers.of(4) as workers, MseGradClient(workers.address, options=NO_WAIT) as client:
        until_all_were_reached(client, workers)
        with ThreadPoolExecutor(4) as threads:
            target = sum(workers.received) + 400
            busy = [threads.submit(compute_until, client, lambda: sum(workers.received) >= target) for _ in range(4)]
            workers.servers[2].stop()
            for each in busy:
                each.result(PATIENCE_S)
        workers.servers[2].start()
        until_all_were_reached(client, workers)


def test_the_given_address_may_die_while_the_others_continue() -> None:
    with ScriptedWorkers.of(3) as workers, MseGradClient(workers.address, options=NO_WAIT) as client:
        until_all_were_reached(client, workers)
        workers.servers[0].stop()
        before = workers.received
        compute_until(client, lambda: workers.received[1] > before[1] + 20 and workers.received[2] > before[2] + 20)
        workers.servers[0].start()
        until_all_were_reached(client, workers)


def test_closing_and_dropping_a_client_end_every_thread() -> None:
    before = client_threads()
    with ScriptedWorkers.of(3) as workers:
        with MseGradClient(workers.address) as client:
            until_all_were_reached(client, workers)
            closed = client_threads() - before
            assert len(closed) == 4
        dropped = MseGradClient(workers.address)
        until_all_were_reached(dropped, workers)
        threads = client_threads() - before - closed
        assert len(threads) == 4
        del dropped
        for thread in closed | threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def compute_in_child(client: MseGradClient) -> None:
    compute_until(client, iter([False, False, False, True]).__next__)
    os._exit(0)


# The warning is about the threads of this process, which are the subject of the test.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_parent_and_child_of_a_fork_both_continue_to_use_the_workers() -> None:
    with ScriptedWorkers.of(3) as workers, MseGradClient(workers.address) as client:
        until_all_were_reached(client, workers)
        for _ in range(3):
            child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(client,))
            child.start()
            child.join(PATIENCE_S)
            assert child.exitcode == 0
            until_all_were_reached(client, workers)


def test_large_requests_go_to_different_workers_at_the_same_time() -> None:
    """Each of the four workers takes one of four requests that are in flight at the same time."""
    together = threading.Barrier(4)

    def meet(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
        first = next(requests)
        if sum(len(chunk.predict) for chunk in first.chunks) > 10_000:
            together.wait(PATIENCE_S)
        yield from answer_all(iter([first]))
        for request in requests:
            if sum(len(chunk.predict) for chunk in request.chunks) > 10_000:
                together.wait(PATIENCE_S)
            yield from answer_all(iter([request]))

    given = operands((5000,))
    with ScriptedWorkers(*[meet] * 4) as workers, MseGradClient(workers.address) as client:
        until_all_were_reached(client, workers)
        with ThreadPoolExecutor(4) as threads:
            for gradient in [threads.submit(client.compute, *given) for _ in range(4)]:
                np.testing.assert_array_equal(gradient.result(PATIENCE_S), expected(*given))
