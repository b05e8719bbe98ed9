"""Jobs, and the inbox in which they wait."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import pytest

from mse_grad.tensor import Reduction
from mse_grad_server.backends.ascend.acl.runtime import DataType
from mse_grad_server.backends.ascend.device.blocks import LaunchKey, Layout
from mse_grad_server.backends.ascend.device.jobs import Inbox, Job, Outcome
from mse_grad_server.backends.ascend.device.slots import Slot, SlotPool
from mse_grad_server.errors import DeviceUnavailable
from support.waiting import PATIENCE_S

KEY = LaunchKey(10, DataType.FLOAT, Reduction.SUM, 10, False)
MEMORY = (ctypes.c_uint8 * Layout.slot_bytes(64))()


@pytest.fixture
def pool() -> SlotPool:
    pool = SlotPool()
    pool.open([Slot(number, len(MEMORY), ctypes.addressof(MEMORY), 0, *range(6)) for number in range(3)])
    return pool


@pytest.fixture
def job(pool: SlotPool) -> Job:
    return made(pool)


def made(pool: SlotPool) -> Job:
    slot = pool.acquire(0.0)
    assert slot is not None
    return Job(KEY, slot, pool)


def in_a_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_a_waiting_thread_gets_the_outcome(job: Job) -> None:
    assert job.wait(0.01) is None
    error = DeviceUnavailable("gone")
    ending = in_a_thread(lambda: job.end(Outcome.FAILED, error))
    assert job.wait(PATIENCE_S) is Outcome.FAILED
    assert job.error is error
    ending.join(PATIENCE_S)


def test_a_job_that_nobody_waits_for_is_dropped_and_its_slot_returns(pool: SlotPool, job: Job) -> None:
    assert not job.dropped()
    job.abandon()
    assert job.dropped()
    assert pool.all_returned(0.0)


def test_the_slot_of_an_abandoned_job_returns_when_the_job_ends(pool: SlotPool, job: Job) -> None:
    job.abandon()
    assert not pool.all_returned(0.0)
    job.end(Outcome.COMPUTED)
    assert pool.all_returned(0.0)


def test_the_slot_of_a_job_that_is_abandoned_after_its_end_returns_at_once(pool: SlotPool, job: Job) -> None:
    job.end(Outcome.COMPUTED)
    assert not pool.all_returned(0.0)
    job.abandon()
    assert pool.all_returned(0.0)


def test_the_inbox_returns_jobs_in_order_of_arrival(pool: SlotPool) -> None:
    inbox = Inbox()
    jobs = [made(pool) for _ in range(3)]
    for job in jobs:
        inbox.put(job)
    assert inbox.get(None) == jobs
    assert inbox.get(0) == []
    assert inbox.get(0.01) == []


def test_an_arriving_job_wakes_the_waiting_thread(job: Job) -> None:
    inbox = Inbox()
    putting = in_a_thread(lambda: inbox.put(job))
    assert inbox.get(PATIENCE_S) == [job]
    putting.join(PATIENCE_S)


def test_an_inbox_that_rejects_ends_present_and_arriving_jobs(pool: SlotPool) -> None:
    inbox = Inbox()
    first, second, third = (made(pool) for _ in range(3))
    inbox.put(first)
    inbox.reject(Outcome.LOST)
    inbox.put(second)
    assert (first.wait(0), second.wait(0)) == (Outcome.LOST, Outcome.LOST)
    inbox.open()
    inbox.put(third)
    assert inbox.get(0) == [third]


def test_closing_wakes_a_thread_that_waits_or_sleeps() -> None:
    inbox = Inbox()
    closing = in_a_thread(inbox.close)
    assert inbox.get(None) == []
    inbox.sleep(PATIENCE_S)
    assert inbox.is_closing
    closing.join(PATIENCE_S)
