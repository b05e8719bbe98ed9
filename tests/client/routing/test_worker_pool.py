"""Choice of the worker that takes the next request."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from mse_grad_client import ClientOptions
from mse_grad_client.errors import ClientClosed, DeadlineExceeded, MseGradError, Unavailable
from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.credentials import Credentials
from mse_grad_client.routing.worker_pool import WorkerPool


class FakeConnection(Connection):
    """A connection that opens nothing; the test decides whether it takes requests."""

    def __init__(self, address: str, given: str = "") -> None:
        options = ClientOptions()
        credentials = Credentials(options, given=address)
        super().__init__(address, options=options, credentials=credentials, closed=Latch())
        self.is_live = True
        self.is_closed = False

    @property
    def takes_requests(self) -> bool:
        return self.is_live

    def close(self, error: Exception) -> None:
        self.is_closed = True


@pytest.fixture
def pool() -> WorkerPool:
    return WorkerPool(FakeConnection("given:1"), FakeConnection)


def in_use(pool: WorkerPool, count: int) -> list[FakeConnection]:
    workers = [pool.worker(f"worker:{number}", "given:1") for number in range(1, count + 1)]
    for worker in reversed(workers):
        pool.take_up(worker)
    return [worker for worker in workers if isinstance(worker, FakeConnection)]


def test_without_workers_the_given_address_takes_everything(pool: WorkerPool) -> None:
    assert pool.pick(100) is pool.given


def test_equally_busy_workers_take_turns(pool: WorkerPool) -> None:
    first, second, third = in_use(pool, 3)
    picked = []
    for _ in range(6):
        picked.append(pool.pick(100))
        pool.release(picked[-1], 100)
    assert picked == [first, second, third, first, second, third]


def test_the_worker_with_the_fewest_bytes_in_flight_is_next(pool: WorkerPool) -> None:
    first, second, third = in_use(pool, 3)
    assert [pool.pick(size_bytes) for size_bytes in (300, 100, 200)] == [first, second, third]
    assert pool.pick(150) is second  # now 250 bytes in flight
    assert pool.pick(10) is third
    pool.release(first, 300)
    assert pool.pick(1) is first


def taken_by_each(pool: WorkerPool, workers: list[FakeConnection], sizes_bytes: Iterable[int]) -> list[int]:
    """Returns the bytes that each worker takes of requests one after another."""
    taken = dict.fromkeys(workers, 0)
    for size_bytes in sizes_bytes:
        worker = pool.pick(size_bytes)
        pool.release(worker, size_bytes)
        assert isinstance(worker, FakeConnection)
        taken[worker] += size_bytes
    return list(taken.values())


@pytest.mark.parametrize("sizes_bytes", [(6_000, 400_000, 1_800_000), (1, 100), (1, 1, 2**30)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_requests_of_regularly_changing_sizes_are_shared_by_their_bytes(
    pool: WorkerPool, sizes_bytes: tuple[int, ...], count: int
) -> None:
    taken = taken_by_each(pool, in_use(pool, count), sizes_bytes * 200)
    assert max(taken) - min(taken) <= 2 * max(sizes_bytes)


def test_a_worker_that_is_new_gets_its_share_and_no_more(pool: WorkerPool) -> None:
    old = in_use(pool, 2)
    taken_by_each(pool, old, [2**20] * 1000)
    new = pool.worker("worker:3", "given:1")
    assert isinstance(new, FakeConnection)
    pool.take_up(new)
    assert taken_by_each(pool, [*old, new], [2**20] * 30) == [10 * 2**20] * 3


def test_a_worker_whose_stream_ended_is_skipped_and_triggers_a_refresh(pool: WorkerPool) -> None:
    first, second = in_use(pool, 2)
    first.is_live = False
    assert [pool.pick(100), pool.pick(100)] == [second, second]
    assert pool.refresh_wanted.is_set()
    second.is_live = False
    assert pool.pick(100) is pool.given


def test_a_worker_left_out_is_picked_again_once_it_is_back(pool: WorkerPool) -> None:
    first, second = in_use(pool, 2)
    assert pool.leave_out(first)
    assert pool.refresh_wanted.is_set()
    assert pool.pick(0) is second
    pool.take_up(first)
    pool.take_up(first)
    assert sorted(worker.address for worker in pool.in_use) == ["worker:1", "worker:2"]
    assert pool.pick(0) is first


@pytest.mark.parametrize("has_many", [False, True])
def test_a_request_without_an_answer_in_time_has_the_servers_asked_if_there_are_many(has_many: bool) -> None:
    pool = WorkerPool(FakeConnection("given:1"), FakeConnection, has_many=has_many)
    in_use(pool, 2)
    pool.assign(100).end(DeadlineExceeded("late"))
    assert pool.refresh_wanted.is_set() is has_many
    pool.refresh_wanted.clear()
    pool.assign(100).end(DeadlineExceeded("late"))
    assert not pool.refresh_wanted.is_set()  # asked a moment ago
    assert len(pool.in_use) == 2


def test_the_given_address_may_be_one_of_the_workers(pool: WorkerPool) -> None:
    assert not pool.leave_out(pool.given)
    assert pool.worker("given:1", "given:1") is pool.given
    assert pool.leave_out(pool.given)


def test_a_forgotten_worker_is_closed_once_it_has_answered(pool: WorkerPool) -> None:
    first, second = in_use(pool, 2)
    assert pool.pick(100) is first
    pool.keep(["worker:2"])
    assert pool.in_use == [second]
    assert not first.is_closed
    pool.release(first, 100)
    pool.keep(["worker:2"])
    assert first.is_closed
    assert not second.is_closed
    assert pool.worker("worker:1", "given:1") is not first


def test_closing_closes_every_connection(pool: WorkerPool) -> None:
    first, second = in_use(pool, 2)
    pool.leave_out(first)
    pool.close(ClientClosed("closed"))
    assert isinstance(pool.given, FakeConnection)
    assert [each.is_closed for each in (pool.given, first, second)] == [True, True, True]


def test_of_many_workers_the_less_busy_of_two_takes_the_request(pool: WorkerPool) -> None:
    workers = in_use(pool, 100)
    for _ in range(10_000):
        pool.pick(1)
    in_flight = sorted(worker.in_flight_bytes for worker in workers)
    # With one random choice the busiest of 100 has about 25 more than the mean of 100, with two about 3.
    assert in_flight[-1] <= 110
    assert sum(in_flight) == 10_000


def test_workers_whose_streams_ended_are_skipped_among_many_too(pool: WorkerPool) -> None:
    workers = in_use(pool, 40)
    for worker in workers[1:]:
        worker.is_live = False
    assert {pool.pick(1) for _ in range(100)} == {workers[0]}
    workers[0].is_live = False
    assert pool.pick(1) is pool.given


def test_a_unary_call_to_one_server_goes_to_the_given_address(pool: WorkerPool) -> None:
    in_use(pool, 2)
    assert {pool.assign_call(size_bytes).connection for size_bytes in (0, 100)} == {pool.given}


def test_unary_calls_to_many_servers_are_spread_and_descriptions_come_from_the_first() -> None:
    pool = WorkerPool(FakeConnection("given:1"), FakeConnection, has_many=True)
    assert pool.assign_call(100).connection is pool.given
    assert pool.assign_call(0).connection is pool.given
    first, second, third = in_use(pool, 3)
    assert [pool.assign_call(100).connection for _ in range(3)] == [first, second, third]
    assert [pool.assign_call(0).connection for _ in range(3)] == [first] * 3
    pool.leave_out(first)
    assert pool.assign_call(0).connection is second


def test_an_assignment_counts_its_bytes_until_it_ends_and_releases_them_once(pool: WorkerPool) -> None:
    first, _ = in_use(pool, 2)
    assignment = pool.assign(100)
    assert (assignment.connection, first.in_flight_bytes) == (first, 100)
    assignment.end(None)
    assignment.end(None)
    assert first.in_flight_bytes == 0


@pytest.mark.parametrize(
    ("error", "is_left_out"),
    [(Unavailable("gone"), True), (Replaced("the process is forking"), False), (DeadlineExceeded("late"), False)],
    ids=["unavailable", "replaced by this side", "out of time"],
)
def test_only_a_worker_that_is_unavailable_is_left_out(
    pool: WorkerPool, error: MseGradError, is_left_out: bool
) -> None:
    first, _ = in_use(pool, 2)
    assignment = pool.assign(100)
    assignment.end(error)
    assert assignment.is_worker_left_out is is_left_out
    assert (first in pool.in_use) is not is_left_out
