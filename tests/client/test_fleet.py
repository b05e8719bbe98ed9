"""Which worker takes the next request."""

from __future__ import annotations

import threading

import pytest

from mse_grad_client import ClientOptions
from mse_grad_client.connection import Connection
from mse_grad_client.credentials import Credentials
from mse_grad_client.errors import ClientClosed
from mse_grad_client.fleet import Fleet


class FakeConnection(Connection):
    """Opens nothing; takes requests as the test says."""

    def __init__(self, address: str) -> None:
        options = ClientOptions()
        credentials = Credentials(options, given=address)
        super().__init__(address, options=options, credentials=credentials, closed=threading.Event())
        self.is_live = True
        self.is_closed = False

    @property
    def takes_requests(self) -> bool:
        return self.is_live

    def close(self, error: Exception) -> None:
        self.is_closed = True


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(FakeConnection("given:1"), FakeConnection)


def in_use(fleet: Fleet, count: int) -> list[FakeConnection]:
    workers = [fleet.worker(f"worker:{number}") for number in range(1, count + 1)]
    for worker in reversed(workers):
        fleet.take_up(worker)
    return [worker for worker in workers if isinstance(worker, FakeConnection)]


def test_without_workers_the_given_address_takes_everything(fleet: Fleet) -> None:
    assert fleet.pick(100) is fleet.given


def test_equally_busy_workers_take_turns(fleet: Fleet) -> None:
    first, second, third = in_use(fleet, 3)
    picked = []
    for _ in range(6):
        picked.append(fleet.pick(100))
        fleet.release(picked[-1], 100)
    assert picked == [first, second, third, first, second, third]


def test_the_worker_with_the_fewest_bytes_in_flight_is_next(fleet: Fleet) -> None:
    first, second, third = in_use(fleet, 3)
    assert [fleet.pick(size_bytes) for size_bytes in (300, 100, 200)] == [first, second, third]
    assert fleet.pick(150) is second  # 250 now
    assert fleet.pick(10) is third
    fleet.release(first, 300)
    assert fleet.pick(1) is first


def test_a_worker_whose_stream_ended_is_passed_over_and_looked_for(fleet: Fleet) -> None:
    first, second = in_use(fleet, 2)
    first.is_live = False
    assert [fleet.pick(100), fleet.pick(100)] == [second, second]
    assert fleet.look_wanted.is_set()
    second.is_live = False
    assert fleet.pick(100) is fleet.given


def test_a_worker_left_out_is_picked_again_once_taken_up(fleet: Fleet) -> None:
    first, second = in_use(fleet, 2)
    assert fleet.leave_out(first)
    assert fleet.look_wanted.is_set()
    assert fleet.pick(0) is second
    fleet.take_up(first)
    fleet.take_up(first)
    assert sorted(worker.address for worker in fleet.in_use) == ["worker:1", "worker:2"]
    assert fleet.pick(0) is first


def test_the_given_address_may_be_one_of_the_workers(fleet: Fleet) -> None:
    assert not fleet.leave_out(fleet.given)
    assert fleet.worker("given:1") is fleet.given
    assert fleet.leave_out(fleet.given)


def test_a_forgotten_worker_is_closed_once_it_has_answered(fleet: Fleet) -> None:
    first, second = in_use(fleet, 2)
    assert fleet.pick(100) is first
    fleet.keep(["worker:2"])
    assert fleet.in_use == [second]
    assert not first.is_closed
    fleet.release(first, 100)
    fleet.keep(["worker:2"])
    assert first.is_closed
    assert not second.is_closed
    assert fleet.worker("worker:1") is not first


def test_closing_closes_every_connection(fleet: Fleet) -> None:
    first, second = in_use(fleet, 2)
    fleet.leave_out(first)
    fleet.close(ClientClosed("closed"))
    assert isinstance(fleet.given, FakeConnection)
    assert [each.is_closed for each in (fleet.given, first, second)] == [True, True, True]
