from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from mse_grad_server.process.garbage import Collector, controlled_collections
from support.server.fakes import FakeClock


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    with controlled_collections():
        yield


def make_due() -> None:
    for _ in range(11):
        gc.collect(1)


def test_python_begins_no_full_collection_meanwhile_and_the_start_is_left_out() -> None:
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[2] > 1_000_000


def test_afterwards_the_collector_is_as_before() -> None:
    gc.unfreeze()
    before = gc.get_threshold()
    with controlled_collections():
        pass
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


async def test_it_collects_when_that_is_due() -> None:
    collector = Collector(FakeClock())
    gc.collect()
    assert not collector.look()
    make_due()
    assert collector.look()
    assert not collector.look()


async def test_in_a_quiet_moment_it_also_collects_a_little_garbage() -> None:
    clock = FakeClock()
    collector = Collector(clock)
    gc.collect()
    gc.collect(1)
    assert not collector.look()
    clock.advance(11)
    assert collector.look()
    clock.advance(9)
    assert not collector.look()


async def test_it_waits_while_there_are_many_tasks_but_not_for_ever() -> None:
    clock = FakeClock()
    collector = Collector(clock)
    tasks = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(700)]
    make_due()
    assert not collector.look()
    clock.advance(9)
    assert not collector.look()
    clock.advance(2)
    assert collector.look()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_it_collects_once_few_tasks_are_left() -> None:
    collector = Collector(FakeClock())
    tasks = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(700)]
    make_due()
    assert not collector.look()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert collector.look()
