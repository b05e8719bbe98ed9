from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import pytest

from mse_grad_client.routing.event_loop import Loop


class Turns:
    """Stands for asyncio's loop: collects what it is to call."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    call_soon_threadsafe = call_soon

    def create_future(self) -> None:
        return

    def run(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def interrupt(self) -> None:
        """Ends the turn as a signal handler that raises before any callback has begun."""
        self._callbacks.clear()


class Transport:
    def visit(self) -> AbstractContextManager[None]:
        return nullcontext()


class Recorder:
    """A stream that has nothing left to send, and a task."""

    is_sending = False

    def __init__(self) -> None:
        self.calls = 0

    def wake(self) -> None:
        self.calls += 1

    look = wake


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def loop(turns: Turns) -> Loop:
    return Loop(cast(Any, turns), cast(Any, Transport()))


def test_streams_of_an_interrupted_turn_are_sent_with_the_next_one(loop: Loop, turns: Turns) -> None:
    first, second = Recorder(), Recorder()
    loop.send_soon(cast(Any, first))
    turns.interrupt()
    loop.send_soon(cast(Any, second))
    turns.run()
    assert (first.calls, second.calls) == (1, 1)


def test_tasks_of_an_interrupted_turn_look_once_another_one_waits(loop: Loop, turns: Turns) -> None:
    first, second = Recorder(), Recorder()
    loop.wake(first)
    turns.interrupt()
    loop.wake(second)
    loop.future()
    turns.run()
    assert (first.calls, second.calls) == (1, 1)


def test_streams_are_sent_and_tasks_look_once_for_all_calls_of_a_turn(loop: Loop, turns: Turns) -> None:
    stream, task = Recorder(), Recorder()
    loop.send_soon(cast(Any, stream))
    loop.send_soon(cast(Any, stream))
    loop.wake(task)
    turns.run()
    turns.run()
    assert (stream.calls, task.calls) == (1, 1)
