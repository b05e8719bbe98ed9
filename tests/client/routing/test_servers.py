"""One client with many servers: lists of addresses, and names."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import (
    ClientClosed,
    ClientOptions,
    DeadlineExceeded,
    MseGradClient,
    RetryOptions,
    Unavailable,
)
from support.client.scripted_server import (
    Script,
    ScriptedServer,
    answer_all,
    break_off,
    go_away,
    refuse_all,
)
from support.client.scripted_workers import ScriptedWorkers, compute_until
from support.server.server_process import running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

LATER = 10 * PATIENCE_S
# A retry after a pause would exceed the time-out, so the client has to retry at once.
NO_PAUSE = RetryOptions(max_attempts=2, initial_backoff_s=LATER, max_backoff_s=LATER)
ONCE = RetryOptions(max_attempts=1)
NAME = "dns:///mse-grad:50051"


class Servers:
    """Scripted servers that know nothing of each other."""

    def __init__(self, *scripts: Script) -> None:
        self.each = [ScriptedServer(script) for script in scripts]
        self.states = [pb.WORKER_STATE_READY] * len(scripts)
        self._stack = ExitStack()

    def __enter__(self) -> Servers:
        for number, server in enumerate(self.each):
            self._stack.enter_context(server)
            server.info = partial(self._info, number)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def addresses(self) -> list[str]:
        return [server.address for server in self.each]

    @property
    def received(self) -> list[int]:
        """The number of messages that each server received."""
        return [len(server.requests) for server in self.each]

    def all_reached_by(self, client: MseGradClient) -> None:
        """Computes until each server has received another message."""
        before = self.received
        compute_until(client, lambda: all(now > then for now, then in zip(self.received, before, strict=True)))

    def shares(self, client: MseGradClient, calls: int) -> list[int]:
        """Returns the number of messages that each receives of `calls` equal calls, one after another."""
        before = self.received
        given = operands((100,))
        for _ in range(calls):
            np.testing.assert_array_equal(client.compute(*given, timeout_s=PATIENCE_S), expected(*given))
        return [now - then for now, then in zip(self.received, before, strict=True)]

    def _info(self, number: int) -> pb.GetServerInfoResponse:
        server = self.each[number]
        endpoint = pb.Endpoint(address=server.address, device="cpu", state=self.states[number])
        return pb.GetServerInfoResponse(endpoints=[endpoint], instance_id=f"instance {number}")


def servers(count: int) -> Servers:
    return Servers(*[answer_all] * count)


def test_equal_requests_are_shared_equally_over_one_stream_each(client_type: type[MseGradClient]) -> None:
    with servers(3) as each, client_type(each.addresses) as client:
        each.all_reached_by(client)
        assert each.shares(client, 30) == [10, 10, 10]
        assert [server.streams for server in each.each] == [1, 1, 1]


def test_the_first_call_waits_for_a_server_and_needs_no_retry(client_type: type[MseGradClient]) -> None:
    with servers(2) as each:
        options = ClientOptions(retry=ONCE, resolve=lambda host, port: each.addresses)
        for address in (each.addresses, NAME):
            with client_type(address, options=options) as client:
                client.compute(*operands((100,)))


def test_a_name_stands_for_all_of_its_addresses(client_type: type[MseGradClient]) -> None:
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return each.addresses

    with servers(3) as each, client_type(NAME, options=ClientOptions(resolve=resolve)) as client:
        each.all_reached_by(client)
        assert each.shares(client, 30) == [10, 10, 10]
    assert set(asked) == {("mse-grad", 50051)}


def test_a_lost_server_has_its_name_looked_up_again(client_type: type[MseGradClient]) -> None:
    with servers(3) as each:
        found = each.addresses[:2]
        options = ClientOptions(resolve=lambda host, port: tuple(found), retry=NO_PAUSE)
        with client_type(NAME, options=options) as client:
            compute_until(client, lambda: all(each.received[:2]))
            assert each.received[2] == 0
            found[:] = each.addresses[1:]
            each.each[0].stop()
            compute_until(client, lambda: each.received[2] > 0)
            assert each.shares(client, 20) == [0, 10, 10]
            each.each[0].start()  # it is stopped at the end


def test_a_name_that_cannot_be_looked_up_is_an_error_that_says_so(client_type: type[MseGradClient]) -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError("the name server is away")

    options = ClientOptions(resolve=resolve, retry=ONCE)
    words = "mse-grad:50051 cannot be looked up: the name server is away"
    with client_type(NAME, options=options) as client, pytest.raises(Unavailable, match=words):
        client.compute(*operands((100,)))


def test_workers_behind_each_server_are_found(client_type: type[MseGradClient]) -> None:
    with ScriptedWorkers.of(2) as first, ScriptedWorkers.of(3) as second:
        workers = [*first.servers, *second.servers]
        with client_type([first.address, second.address]) as client:
            compute_until(client, lambda: all(server.requests for server in workers))
            before = [len(server.requests) for server in workers]
            for _ in range(20):
                client.compute(*operands((100,)))
            assert [len(server.requests) - then for server, then in zip(workers, before, strict=True)] == [4] * 5


@pytest.mark.parametrize("script", [break_off, refuse_all, go_away])
def test_a_request_that_one_server_does_not_answer_goes_to_another_at_once(
    client_type: type[MseGradClient], script: Script
) -> None:
    options = ClientOptions(retry=NO_PAUSE)
    with Servers(answer_all, script) as each, client_type(each.addresses, options=options) as client:
        each.all_reached_by(client)


def test_a_killed_server_costs_no_request_and_gets_its_share_again_when_it_is_back(
    client_type: type[MseGradClient],
) -> None:
    with servers(3) as each, client_type(each.addresses, options=ClientOptions(retry=NO_PAUSE)) as client:
        each.all_reached_by(client)
        with ThreadPoolExecutor(3) as threads:
            target = sum(each.received) + 300
            busy = [threads.submit(compute_until, client, lambda: sum(each.received) >= target) for _ in range(3)]
            each.each[1].stop()
            for thread in busy:
                thread.result(PATIENCE_S)
        each.each[1].start()
        each.all_reached_by(client)
        assert each.shares(client, 30) == [10, 10, 10]


def test_a_server_that_is_not_ready_gets_nothing_until_it_is(client_type: type[MseGradClient]) -> None:
    with servers(2) as each:
        each.states[0] = pb.WORKER_STATE_STARTING
        with client_type(each.addresses) as client:
            assert each.shares(client, 20) == [0, 20]
            each.states[0] = pb.WORKER_STATE_READY
            each.all_reached_by(client)
            assert each.shares(client, 20) == [10, 10]


def test_calls_wait_while_no_server_is_ready(client_type: type[MseGradClient]) -> None:
    with servers(2) as each:
        each.states[:] = [pb.WORKER_STATE_STARTING] * 2
        with client_type(each.addresses) as client, ThreadPoolExecutor(1) as thread:
            call = thread.submit(client.compute, *operands((100,)), timeout_s=PATIENCE_S)

            def says_why() -> bool:
                with pytest.raises((DeadlineExceeded, Unavailable)) as ended:
                    client.compute(*operands((100,)), timeout_s=0.1)
                # the deadline may be over before the servers have told their state
                return re.search(r"no server is ready: .* is not ready \(starting\)", str(ended.value)) is not None

            wait_until(says_why)
            each.states[1] = pb.WORKER_STATE_READY
            call.result(PATIENCE_S)


def test_unary_calls_and_descriptions_go_to_servers_in_use(client_type: type[MseGradClient]) -> None:
    with servers(2) as each, client_type(each.addresses) as client:
        assert client.wait_ready(PATIENCE_S).ready
        each.all_reached_by(client)
        assert {client.server_info().instance_id for _ in range(4)} == {"instance 0"}
        each.states[0] = pb.WORKER_STATE_DRAINING
        each.each[0].stop()
        assert client.server_info(timeout_s=PATIENCE_S).instance_id == "instance 1"
        each.each[0].start()


def test_unary_gradients_are_spread(client_type: type[MseGradClient]) -> None:
    with ExitStack() as stack:
        real = [stack.enter_context(running_server()) for _ in range(2)]
        with client_type([server.address for server in real]) as client:
            client.wait_ready(PATIENCE_S)
            given = operands((100,))
            for _ in range(4):
                np.testing.assert_array_equal(client.compute_unary(*given), expected(*given))


def test_a_closed_client_ends_calls_that_wait_for_a_server_and_every_thread(client_type: type[MseGradClient]) -> None:
    before = set(threading.enumerate())
    looked_up, gate = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        looked_up.set()
        assert gate.wait(PATIENCE_S)
        return ()

    client = client_type(NAME, options=ClientOptions(resolve=resolve))
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.compute, *operands((100,)), timeout_s=LATER)
        assert looked_up.wait(PATIENCE_S)
        client.close()
        with pytest.raises(ClientClosed):
            call.result(PATIENCE_S)
    gate.set()
    for left in set(threading.enumerate()) - before:
        left.join(PATIENCE_S)
        assert not left.is_alive()


def test_a_pickle_has_every_address() -> None:
    with servers(2) as each, MseGradClient(each.addresses) as client:
        assert client.address == ", ".join(each.addresses)
        assert repr(client) == f"MseGradClient({tuple(each.addresses)!r})"
        with pickle.loads(pickle.dumps(client)) as copy:
            each.all_reached_by(copy)


def test_a_token_stays_away_from_machines_without_tls_in_a_list_too() -> None:
    with pytest.raises(ValueError, match=r"the token would go to 192\.0\.2\.1:1 unencrypted"):
        MseGradClient(["127.0.0.1:1", "192.0.2.1:1"], options=ClientOptions(token="secret"))
    with pytest.raises(ValueError, match=r"the token would go to example\.com:1 unencrypted"):
        MseGradClient("dns:///example.com:1", options=ClientOptions(token="secret"))


def compute_in_child(client: MseGradClient) -> None:
    compute_until(client, iter([False, False, False, True]).__next__)
    os._exit(0)


# The warning is about the threads of this process, which are the subject of the test.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_parent_and_child_of_a_fork_both_continue_to_use_the_servers() -> None:
    # The servers need processes of their own: gRPC's server may not survive in a process that forks.
    with ExitStack() as stack:
        real = [stack.enter_context(running_server()) for _ in range(2)]
        with MseGradClient([server.address for server in real]) as client:
            compute_until(client, iter([False, True]).__next__)
            for _ in range(2):
                child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(client,))
                child.start()
                child.join(PATIENCE_S)
                assert child.exitcode == 0
                compute_until(client, iter([False, False, True]).__next__)


class Connections:
    """Counts the streams of a client; see ClientMetrics."""

    count = 0

    def connected(self, address: str) -> None:
        self.count += 1

    def call_ended(self, call: object, seconds: float, error: BaseException | None) -> None:
        pass

    def retried(self, request_id: str, error: Exception) -> None:
        pass


def test_an_old_stream_is_followed_by_another_one_and_no_request_is_sent_again(
    client_type: type[MseGradClient],
) -> None:
    streams = Connections()
    options = ClientOptions(max_stream_age_s=0.05, metrics=streams, retry=ONCE)
    with servers(1) as each, client_type(each.addresses[0], options=options) as client:
        compute_until(client, lambda: streams.count >= 4)
        assert each.each[0].streams >= 4


def test_streams_that_are_replaced_under_load_cost_no_call(client_type: type[MseGradClient]) -> None:
    streams = Connections()
    options = ClientOptions(max_stream_age_s=0.02, metrics=streams)
    with running_server() as server, client_type(server.address, options=options) as client:
        with ThreadPoolExecutor(4) as threads:
            busy = [threads.submit(compute_until, client, lambda: streams.count >= 10) for _ in range(4)]
        for thread in busy:
            thread.result()
