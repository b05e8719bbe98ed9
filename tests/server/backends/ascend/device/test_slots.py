from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from mse_grad.tensor import Reduction
from mse_grad_server.backends.ascend.acl.runtime import DataType
from mse_grad_server.backends.ascend.device.blocks import LaunchKey, Layout
from mse_grad_server.backends.ascend.device.slots import Slot, SlotPool
from mse_grad_server.errors import DeviceUnavailable
from support.waiting import PATIENCE_S

SIZE_BYTES = 1 << 14


@pytest.fixture
def memory() -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * (2 * SIZE_BYTES))()


@pytest.fixture
def slots(memory: ctypes.Array[ctypes.c_uint8]) -> list[Slot]:
    begin = ctypes.addressof(memory)
    return [Slot(number, SIZE_BYTES, begin + number * SIZE_BYTES, 0, *range(6)) for number in range(2)]


def taken(pool: SlotPool) -> Slot:
    slot = pool.acquire(PATIENCE_S)
    assert slot is not None
    return slot


@contextmanager
def waiting(pool: SlotPool) -> Iterator[list[object]]:
    """Runs a thread that acquires a slot; the list gets the slot, or the error."""
    got: list[object] = []

    def ask() -> None:
        try:
            got.append(pool.acquire(PATIENCE_S))
        except DeviceUnavailable as error:
            got.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    yield got
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("scalar_dout", [False, True])
def test_operands_go_into_pinned_memory_and_the_gradient_comes_out(slots: list[Slot], scalar_dout: bool) -> None:
    layout = Layout.of(LaunchKey(1000, DataType.FLOAT, Reduction.SUM, 1000, scalar_dout))
    predict, label, y = (np.arange(1000, dtype=np.float32) + 1000 * n for n in range(3))
    dout = np.arange(1 if scalar_dout else 1000, dtype=np.float32) + 5000
    slot = slots[1]
    slot.fill(layout, predict, label, dout)
    for offset, operand in ((0, predict), (layout.label, label), (layout.dout, dout)):
        assert ctypes.string_at(slot.host + offset, operand.nbytes) == operand.tobytes()
    ctypes.memmove(slot.host + layout.y, y.ctypes.data, y.nbytes)
    out = np.empty_like(y)
    slot.read(layout, out)
    np.testing.assert_array_equal(out, y)
    slot.stain(layout, 0xA5)
    slot.read(layout, out)
    assert set(out.tobytes()) == {0xA5}


def test_each_slot_is_lent_once(slots: list[Slot]) -> None:
    pool = SlotPool()
    pool.open(slots)
    assert {taken(pool).number, taken(pool).number} == {0, 1}
    assert pool.acquire(0.0) is None
    assert pool.acquire(0.01) is None


def test_a_returned_slot_is_lent_again(slots: list[Slot]) -> None:
    pool = SlotPool()
    pool.open(slots[:1])
    slot = taken(pool)
    with waiting(pool) as got:
        pool.release(slot)
    assert got == [slot]


def test_while_the_pool_is_shut_callers_wait_until_it_opens(slots: list[Slot]) -> None:
    pool = SlotPool()
    pool.open(slots)
    pool.shut()
    assert pool.acquire(0.01) is None
    with waiting(pool) as got:
        pool.open(slots)
    assert isinstance(got[0], Slot)


def test_a_waiting_caller_gets_the_refusal() -> None:
    pool = SlotPool()
    refusal = DeviceUnavailable("it rests")
    with waiting(pool) as got:
        pool.refuse(refusal)
    assert got == [refusal]
    with pytest.raises(DeviceUnavailable, match="it rests"):
        pool.acquire(0.0)


def test_a_slot_that_returns_to_a_shut_pool_is_not_lent_again(slots: list[Slot]) -> None:
    pool = SlotPool()
    pool.open(slots)
    slot = taken(pool)
    pool.shut()
    assert not pool.all_returned(0.01)
    pool.release(slot)
    assert pool.all_returned(0.0)
    assert pool.acquire(0.0) is None
