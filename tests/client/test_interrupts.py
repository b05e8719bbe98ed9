from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mse_grad_client.errors import Unavailable
from mse_grad_client.interrupts import Bell, Latch, end_context_managers, is_ours, raise_foreign
from mse_grad_client.shared_memory.local_socket import connect
from support.client.interrupting import Interrupt, interrupting
from support.waiting import wait_until


def caught(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        # drops the frame of `caught`, so that the traceback begins in `call`
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        return error
    raise AssertionError("nothing was raised")


def handler() -> None:
    raise TimeoutError("a timer")


def test_an_error_of_the_system_in_a_function_of_the_sdk_is_its_own() -> None:
    error = caught(lambda: connect("mse-grad-nobody", timeout_s=1))
    assert isinstance(error, OSError)
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # drops the frame of the lambda
    raise_foreign(error)


def test_an_error_of_a_signal_handler_goes_on_to_the_caller() -> None:
    with pytest.raises(TimeoutError, match="a timer"):
        raise_foreign(caught(handler))


def test_an_error_of_the_sdk_that_a_handler_raised_does_not_belong_to_the_call() -> None:
    def raising() -> None:
        raise Unavailable("from a handler")

    assert not is_ours(caught(raising))
    assert not is_ours(caught(handler))
    assert is_ours(Unavailable("raised nowhere yet"))


def test_a_latch_lets_everyone_through_once_it_is_set() -> None:
    latch = Latch()
    through: list[bool] = []
    threads = [threading.Thread(target=lambda: through.append(latch.wait())) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert not latch.wait(0)
    assert through == []
    latch.set()
    for thread in threads:
        thread.join()
    assert through == [True] * 8
    assert latch.wait(0)
    latch.clear()
    assert not latch.is_set()
    assert not latch.wait(0)


def test_a_second_set_reaches_the_threads_that_an_interrupted_one_missed() -> None:
    latch = Latch()
    thread = threading.Thread(target=latch.wait)
    thread.start()
    wait_until(lambda: bool(latch._waiting))
    latch._is_set = True  # the state after an interrupted `set`
    latch.set()
    thread.join()


def test_rings_while_no_thread_waits_count_as_one() -> None:
    bell = Bell(is_rung=True)
    for _ in range(100_000):
        bell.ring()
    bell.wait()
    waiting = threading.Thread(target=bell.wait)
    waiting.start()
    assert waiting.is_alive()
    bell.ring()
    waiting.join()


@contextlib.contextmanager
def holding(lock: Any) -> Iterator[None]:
    with lock:
        yield


def test_a_lock_of_a_generator_whose_block_never_began_is_released_while_the_error_lives() -> None:
    lock = threading.Lock()
    with pytest.raises(Interrupt) as caught, interrupting(), holding(lock):
        raise AssertionError("the block began")
    assert lock.locked()
    end_context_managers(caught.value)
    assert not lock.locked()
    end_context_managers(caught.value)


def test_an_interrupt_of_an_interrupt_hides_no_generator() -> None:
    lock = threading.Lock()
    with pytest.raises(Interrupt) as first, interrupting(), holding(lock):
        raise AssertionError("the block began")
    second = KeyboardInterrupt()
    second.__context__ = first.value
    assert lock.locked()
    end_context_managers(second)
    assert not lock.locked()
