"""Discovery of the workers of many servers, with connections in memory and a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import ClientOptions
from mse_grad_client.errors import InternalError, MseGradError, Unauthenticated, Unavailable
from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.arrivals import Arrivals
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.credentials import Credentials
from mse_grad_client.routing.discovery import Discovery
from mse_grad_client.routing.lookup import Lookup
from mse_grad_client.routing.target import Target
from mse_grad_client.routing.worker_pool import WorkerPool
from support.waiting import PATIENCE_S

READY, DRAINING = pb.WORKER_STATE_READY, pb.WORKER_STATE_DRAINING


class FakeInfoCall:
    """A GetServerInfo RPC that has ended."""

    def __init__(self, answer: pb.GetServerInfoResponse | grpc.StatusCode) -> None:
        self._answer = answer

    def cancel(self) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def code(self) -> grpc.StatusCode:
        return self._answer if isinstance(self._answer, grpc.StatusCode) else grpc.StatusCode.OK

    def details(self) -> str:
        return "no details"

    def trailing_metadata(self) -> None:
        return None

    def result(self) -> pb.GetServerInfoResponse:
        assert isinstance(self._answer, pb.GetServerInfoResponse)
        return self._answer


@dataclass
class Network:
    """The servers that answer, by their addresses; nothing listens at others.

    Attributes:
        answers: Address -> answer.
        given: Address -> the given address of its server, for each connection that was made.
        closed: Addresses of the connections that were closed.
        broken: Whether `open_channel` raises.
    """

    answers: dict[str, pb.GetServerInfoResponse | grpc.StatusCode] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    broken: bool = False

    def serve(self, address: str, *states: pb.WorkerState, instance: str = "") -> None:
        """Has a server answer: one worker, or several at the ports after its own."""
        host, _, port = address.rpartition(":")
        endpoints = [
            pb.Endpoint(address=f"0.0.0.0:{int(port) + number}", device="cpu", state=state)
            for number, state in enumerate(states or (READY,))
        ]
        for number in range(len(endpoints)):
            self.answers[f"{host}:{int(port) + number}"] = pb.GetServerInfoResponse(
                endpoints=endpoints, instance_id=instance or f"{address}/{number}"
            )

    def connect(self, address: str, given: str) -> Connection:
        self.given[address] = given
        return FakeConnection(address, self)


class FakeConnection(Connection):
    def __init__(self, address: str, network: Network) -> None:
        options = ClientOptions()
        super().__init__(address, options=options, credentials=Credentials(options, given=address), closed=Latch())
        self._network = network

    def ask_server_info(self, *, timeout_s: float) -> FakeInfoCall:
        if self._network.broken:
            raise RuntimeError("no channel today")
        return FakeInfoCall(self._network.answers.get(self.address, grpc.StatusCode.UNAVAILABLE))

    def close(self, error: MseGradError) -> None:
        assert isinstance(error, Replaced)
        self._network.closed.append(self.address)


class StandingClock(Latch):
    """In the place of the pool's latch: the test decides when a pause of discovery is over.

    Attributes:
        pauses_s: The lengths of the pauses so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pauses_s: list[float] = []
        self._pausing = threading.Semaphore(0)
        self._passed = threading.Semaphore(0)

    def wait(self, timeout_s: float | None = None) -> bool:
        assert timeout_s is not None
        self.pauses_s.append(timeout_s)
        self._pausing.release()
        assert self._passed.acquire(timeout=PATIENCE_S)
        return False

    def until_pause(self) -> None:
        """Waits until discovery pauses."""
        assert self._pausing.acquire(timeout=PATIENCE_S)

    def pass_pause(self) -> None:
        """Ends the pause, and waits for the next one."""
        self._passed.release()
        self.until_pause()

    def stop(self) -> None:
        self._passed.release()


class Discovered:
    """The discovery of a client under test, in the pause after its first round."""

    def __init__(
        self, network: Network, address: str | Sequence[str], names: dict[str, Sequence[str]], *, all_workers: bool
    ) -> None:
        target = Target.of(address)
        self.clock = StandingClock()
        self.arrivals = Arrivals(lambda: None)
        self.pool = WorkerPool(FakeConnection("no-server:1", network), network.connect, has_many=True)
        self.pool.refresh_wanted = self.clock
        self.lookup = Lookup(target, lambda host, port: names[host], is_proxied=lambda _: False)
        self.discovery = Discovery(self.pool, self.lookup, self.arrivals, all_workers=all_workers)
        self.discovery.start()
        self.clock.until_pause()

    @property
    def in_use(self) -> list[str]:
        return sorted(worker.address for worker in self.pool.in_use)

    def failure(self) -> MseGradError:
        """Returns the error of a request that began before the round that ends now."""
        failed: list[MseGradError] = []

        def is_there() -> bool:
            waits.set()
            return False

        def wait() -> None:
            try:
                self.arrivals.wait(is_there, deadline=None, target="all")
            except MseGradError as error:
                failed.append(error)

        waits = threading.Event()
        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(PATIENCE_S)
        self.clock.pass_pause()
        thread.join(PATIENCE_S)
        (error,) = failed
        return error

    def stop(self) -> None:
        self.clock.stop()
        self.discovery.stop()


@pytest.fixture
def network() -> Network:
    return Network()


Discover = Callable[..., Discovered]


@pytest.fixture
def discover(network: Network) -> Iterator[Discover]:
    made: list[Discovered] = []

    def discover(address: str | Sequence[str], *, all_workers: bool = True, **names: Sequence[str]) -> Discovered:
        made.append(Discovered(network, address, names, all_workers=all_workers))
        return made[-1]

    yield discover
    for each in made:
        each.stop()


def test_every_server_that_is_ready_is_used(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:1")
    network.serve("10.0.0.2:1", DRAINING)
    network.serve("10.0.0.3:1")
    found = discover(["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"])
    assert found.in_use == ["10.0.0.1:1", "10.0.0.3:1"]


def test_the_workers_behind_each_server_are_used_in_its_place(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:1", READY, READY)
    network.serve("10.0.0.2:1", READY, DRAINING, READY)
    found = discover(["10.0.0.1:1", "10.0.0.2:1"])
    assert found.in_use == ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "10.0.0.2:3"]
    assert network.given["10.0.0.1:2"] == "10.0.0.1:1"
    assert network.given["10.0.0.2:3"] == "10.0.0.2:1"


def test_only_the_given_addresses_are_used_if_the_options_say_so(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:1", READY, READY)
    network.serve("10.0.0.2:1", DRAINING, READY)
    assert discover(["10.0.0.1:1", "10.0.0.2:1"], all_workers=False).in_use == ["10.0.0.1:1", "10.0.0.2:1"]


def test_a_server_whose_workers_cannot_be_reached_is_used_itself(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:5", READY, READY)
    network.answers["10.0.0.1:1"] = network.answers.pop("10.0.0.1:5")
    worker = network.answers.pop("10.0.0.1:6")
    found = discover(["10.0.0.1:1", "10.0.0.9:1"])
    assert found.in_use == ["10.0.0.1:1"]
    network.answers["10.0.0.1:6"] = worker
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.1:6"]


def test_a_server_that_drains_or_dies_is_left_out_until_it_is_ready(network: Network, discover: Discover) -> None:
    for number in (1, 2, 3):
        network.serve(f"10.0.0.{number}:1")
    found = discover([f"10.0.0.{number}:1" for number in (1, 2, 3)])
    network.serve("10.0.0.1:1", DRAINING)
    del network.answers["10.0.0.2:1"]
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.3:1"]
    network.serve("10.0.0.1:1")
    network.serve("10.0.0.2:1")
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]


SILENCE = grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_server_that_is_too_busy_to_describe_itself_stays_in_use(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:1")
    network.serve("10.0.0.2:1")
    found = discover(["10.0.0.1:1", "10.0.0.2:1"])
    network.answers["10.0.0.1:1"] = grpc.StatusCode.RESOURCE_EXHAUSTED
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.1:1", "10.0.0.2:1"]


def test_a_silent_server_is_left_out_with_its_workers_until_it_answers(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:1", READY, READY)
    network.serve("10.0.0.2:1")
    found = discover(["10.0.0.1:1", "10.0.0.2:1"])
    answers = dict(network.answers)
    network.answers.update(dict.fromkeys(("10.0.0.1:1", "10.0.0.1:2"), SILENCE))
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.2:1"]
    network.answers = answers
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1"]


def test_servers_stay_in_use_while_most_are_silent(network: Network, discover: Discover) -> None:
    for number in (1, 2, 3):
        network.serve(f"10.0.0.{number}:1")
    found = discover([f"10.0.0.{number}:1" for number in (1, 2, 3)])
    network.answers.update(dict.fromkeys(("10.0.0.1:1", "10.0.0.2:1"), SILENCE))
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]


def test_an_error_of_the_users_own_code_ends_no_discovery(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:1")
    network.broken = True
    found = discover(["10.0.0.1:1", "10.0.0.2:1"])
    error = found.failure()
    assert isinstance(error, InternalError)
    assert "RuntimeError: no channel today" in error.message
    network.broken = False
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.1:1"]


def test_a_server_without_getserverinfo_counts_as_ready(network: Network, discover: Discover) -> None:
    network.answers["10.0.0.1:1"] = grpc.StatusCode.UNIMPLEMENTED
    assert discover(["10.0.0.1:1", "10.0.0.2:1"]).in_use == ["10.0.0.1:1"]


def test_a_name_is_looked_up_again_and_its_servers_change(network: Network, discover: Discover) -> None:
    names = ["10.0.0.1:1", "10.0.0.2:1"]
    for number in (1, 2, 3):
        network.serve(f"10.0.0.{number}:1")
    found = discover("dns:///mse:1", mse=names)
    assert found.in_use == ["10.0.0.1:1", "10.0.0.2:1"]
    assert network.given["10.0.0.1:1"] == "mse:1"
    names[:] = ["10.0.0.2:1", "10.0.0.3:1"]
    found.clock.pass_pause()
    assert found.in_use == ["10.0.0.2:1", "10.0.0.3:1"]
    assert network.closed == ["10.0.0.1:1"]


def test_requests_under_way_at_an_address_that_a_name_has_lost_are_finished(
    network: Network, discover: Discover
) -> None:
    names = ["10.0.0.1:1"]
    for number in (1, 2):
        network.serve(f"10.0.0.{number}:1")
    found = discover("dns:///mse:1", mse=names)
    busy = found.pool.pick(100)
    names[:] = ["10.0.0.2:1"]
    found.clock.pass_pause()
    assert (found.in_use, network.closed) == (["10.0.0.2:1"], [])
    found.pool.release(busy, 100)
    found.clock.pass_pause()
    assert network.closed == ["10.0.0.1:1"]


def test_two_addresses_of_one_process_are_one_server(network: Network, discover: Discover) -> None:
    network.serve("127.0.0.1:1", instance="a")
    network.answers["[::1]:1"] = network.answers["127.0.0.1:1"]
    found = discover("dns:///localhost:1", localhost=["[::1]:1", "127.0.0.1:1"])
    assert found.in_use == ["[::1]:1"]
    del network.answers["[::1]:1"]
    found.clock.pass_pause()
    assert found.in_use == ["127.0.0.1:1"]


def test_pauses_grow_while_a_server_is_missing_and_are_ten_seconds_otherwise(
    network: Network, discover: Discover
) -> None:
    network.serve("10.0.0.1:1")
    found = discover(["10.0.0.1:1", "10.0.0.2:1"])
    for _ in range(8):
        found.clock.pass_pause()
    assert found.clock.pauses_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    network.serve("10.0.0.2:1")
    found.clock.pass_pause()
    assert found.clock.pauses_s[-1] == 10.0


def test_a_request_fails_with_the_state_of_each_server(network: Network, discover: Discover) -> None:
    network.serve("10.0.0.1:1", DRAINING)
    error = discover(["10.0.0.1:1", "10.0.0.2:1", "dns:///mse:1"], other=[]).failure()
    assert isinstance(error, Unavailable)
    assert error.reason is Reason.CONNECTION_LOST
    for words in ("10.0.0.1:1 is not ready (draining)", "no answer from 10.0.0.2:1", "mse:1 cannot be looked up"):
        assert words in error.message


def test_an_error_about_many_servers_names_some_and_counts_the_rest(discover: Discover) -> None:
    error = discover([f"10.0.0.{number}:1" for number in range(1, 100)]).failure()
    assert error.message.count("no answer from") == 5
    assert error.message.endswith("; and 94 more")


def test_a_request_fails_for_good_if_no_server_knows_the_token(network: Network, discover: Discover) -> None:
    network.answers.update(dict.fromkeys(("10.0.0.1:1", "10.0.0.2:1"), grpc.StatusCode.UNAUTHENTICATED))
    found = discover(["10.0.0.1:1", "10.0.0.2:1"])
    assert isinstance(found.failure(), Unauthenticated)
    network.answers["10.0.0.2:1"] = grpc.StatusCode.UNAVAILABLE
    assert isinstance(found.failure(), Unavailable)


def test_a_server_that_names_what_is_no_address_costs_no_other_server(network: Network, discover: Discover) -> None:
    named = [pb.Endpoint(address=address, device="cpu", state=READY) for address in ("a\0b:1", "unix:/a,b")]
    network.answers["127.0.0.1:1"] = pb.GetServerInfoResponse(endpoints=named)
    network.serve("127.0.0.2:1", READY, READY)
    found = discover(["127.0.0.1:1", "127.0.0.2:1"])
    assert found.in_use == ["127.0.0.1:1", "127.0.0.2:1", "127.0.0.2:2"]


def test_a_server_that_names_thousands_of_workers_takes_no_connection_for_each(
    network: Network, discover: Discover
) -> None:
    network.serve("10.0.0.1:1", *[READY] * 5000)
    found = discover(["10.0.0.1:1"])
    assert len(network.given) == len(found.in_use) == 256
