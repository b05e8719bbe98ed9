"""Jobs, and the inbox in which they wait."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import pytest

from mse_grad.tensor import Reduction
from mse_grad_server.backends.ascend.acl import DataType
from mse_grad_server.backends.ascend.blocks import LaunchKey, Layout
from mse_grad_server.backends.ascend.inbox import Inbox
from mse_grad_server.backends.ascend.jobs import Job, Outcome
from mse_grad_server.backends.ascend.slots import Slot, SlotPool
from mse_grad_server.errors import DeviceUnavailable
from support.ascend_backend import PATIENCE_S

KEY = LaunchKey(10, DataType.FLOAT, Reduction.SUM, None, False)
MEMORY = (ctypes.c_uint8 * Layout.room_bytes(64))()


@pytest.fixture
def pool() -> SlotPool:
    pool = SlotPool()
    pool.open([Slot(number, len(MEMORY), ctypes.addressof(MEMORY), 0, *range(6)) for number in range(3)])
    return pool


@pytest.fixture
def job(pool: SlotPool) -> Job:
    return made(pool)


def made(pool: SlotPool) -> Job:
    slot = pool.take(0.0)
    assert slot is not None
    return Job(KEY, slot, pool)


def in_a_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_who_waits_learns_how_it_ended(job: Job) -> None:
    assert job.wait(0.01) is None
    error = DeviceUnavailable("gone")
    ending = in_a_thread(lambda: job.end(Outcome.FAILED, error))
    assert job.wait(PATIENCE_S) is Outcome.FAILED
    assert job.error is error
    ending.join(PATIENCE_S)


def test_the_slot_of_an_abandoned_job_comes_back_when_it_has_ended(pool: SlotPool, job: Job) -> None:
    job.abandon()
    assert not pool.all_returned(0.0)
    job.end(Outcome.COMPUTED)
    assert pool.all_returned(0.0)


def test_the_slot_of_a_job_that_ended_before_it_was_abandoned_comes_back_at_once(pool: SlotPool, job: Job) -> None:
    job.end(Outcome.COMPUTED)
    assert not pool.all_returned(0.0)
    job.abandon()
    assert pool.all_returned(0.0)


def test_the_inbox_gives_jobs_in_the_order_in_which_they_came(pool: SlotPool) -> None:
    inbox = Inbox()
    jobs = [made(pool) for _ in range(3)]
    for job in jobs:
        inbox.put(job)
    assert inbox.take(None) == jobs
    assert inbox.take(0) == []
    assert inbox.take(0.01) == []


def test_a_job_that_comes_wakes_who_waits_for_it(job: Job) -> None:
    inbox = Inbox()
    putting = in_a_thread(lambda: inbox.put(job))
    assert inbox.take(PATIENCE_S) == [job]
    putting.join(PATIENCE_S)


def test_an_inbox_that_turns_back_ends_what_is_there_and_what_comes(pool: SlotPool) -> None:
    inbox = Inbox()
    first, second, third = (made(pool) for _ in range(3))
    inbox.put(first)
    inbox.turn_back(Outcome.LOST)
    inbox.put(second)
    assert (first.wait(0), second.wait(0)) == (Outcome.LOST, Outcome.LOST)
    inbox.open()
    inbox.put(third)
    assert inbox.take(0) == [third]


def test_closing_wakes_who_waits_and_who_rests() -> None:
    inbox = Inbox()
    closing = in_a_thread(inbox.close)
    assert inbox.take(None) == []
    inbox.rest(PATIENCE_S)
    assert inbox.is_closing
    closing.join(PATIENCE_S)
