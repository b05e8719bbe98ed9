"""Waits and checks that stay correct when a signal handler raises in the middle of a call.

`threading.Event` and `threading.Semaphore` hold a lock while they run Python code. If a signal handler raises there,
the lock stays held and every later use hangs. Here each step is one call of a lock that is written in C.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from typing import Protocol

from mse_grad_client.errors import MseGradError

__all__ = [
    "LONGEST_SLEEP_S",
    "Bell",
    "Latch",
    "Releasable",
    "acquire",
    "end_context_managers",
    "is_ours",
    "raise_foreign",
]

LONGEST_SLEEP_S = 0.2
"""Longest sleep of a thread before Python may call a signal handler, in seconds.

A signal that arrives between Python's last check and the sleep does not end the sleep. gRPC sleeps as long.
"""


# Modules of Python whose functions raise errors of the system.
_SOCKETS = frozenset(("socket", "ssl"))


class Releasable(Protocol):
    """A lock that a thread waits for, or the like."""

    def release(self) -> None:
        """Lets the waiter go on; may be called again."""


class Latch:
    """A `threading.Event` that an interrupt cannot break: after an interrupted `set`, set it again."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: dict[Releasable, None] = {}

    def is_set(self) -> bool:
        """Returns whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Releases every waiting thread, and lets later ones pass."""
        self._is_set = True
        for lock in list(self._waiting):
            _release(lock)

    def tell(self, listener: Releasable) -> None:
        """Calls `listener.release()` when it is set, in the thread that sets it, until `forget`."""
        self._waiting[listener] = None

    def forget(self, listener: Releasable) -> None:
        """Ends `tell`."""
        self._waiting.pop(listener, None)

    def clear(self) -> None:
        """Makes threads wait again."""
        self._is_set = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until it is set, at most `timeout_s` seconds (None: no limit); returns whether it was set in time."""
        if self._is_set:
            return True
        lock = threading.Lock()
        lock.acquire()
        self._waiting[lock] = None
        try:
            # `set` may have run since the first check, before it could see this lock.
            return self.is_set() or acquire(lock, None if timeout_s is None else time.monotonic() + timeout_s)
        finally:
            self._waiting.pop(lock, None)


class Bell:
    """Wakes the one thread that waits. Rings while no thread waits count as one."""

    def __init__(self, *, is_rung: bool = False) -> None:
        self._lock = threading.Lock()
        if not is_rung:
            self._lock.acquire()

    def ring(self) -> None:
        """Wakes the thread, now or when it next waits."""
        if self._lock.locked():
            _release(self._lock)

    def wait(self) -> None:
        """Blocks until the next ring."""
        self._lock.acquire()


def acquire(lock: threading.Lock, deadline: float | None) -> bool:
    """Acquires a lock and keeps it; returns whether it succeeded before `deadline` on the clock of time.monotonic."""
    while True:
        left_s = LONGEST_SLEEP_S if deadline is None else min(LONGEST_SLEEP_S, deadline - time.monotonic())
        if lock.acquire(timeout=max(0.0, left_s)):
            return True
        if left_s <= 0:
            return False


def is_ours(error: BaseException) -> bool:
    """Whether the SDK raised `error`. A signal handler may raise anything, also one of the SDK's errors."""
    return isinstance(error, MseGradError) and _is_raised_here(error)


def raise_foreign(error: Exception) -> None:
    """Raises `error` again unless a system function that the SDK called raised it.

    For `except OSError`: handlers of timers often raise a TimeoutError, which is an OSError.
    """
    if not _is_raised_here(error):
        raise error


def end_context_managers(error: BaseException) -> None:
    """Ends every generator that a signal handler, which raised `error`, kept from beginning or ending a `with` block.

    A function decorated with `contextlib.contextmanager` is a generator that is suspended during the block. If the
    handler raises between the generator and the block, the block never runs, and the generator stays suspended for as
    long as somebody keeps the error, with every lock that it holds. gRPC holds a lock of the whole process in such a
    generator whenever an RPC begins or ends.
    """
    chained: BaseException | None = error
    while chained is not None:
        step = chained.__traceback__
        while step is not None:
            if step.tb_frame.f_globals.get("__name__") == contextlib.__name__:
                generator = getattr(step.tb_frame.f_locals.get("self"), "gen", None)
                if inspect.isgenerator(generator) and inspect.getgeneratorstate(generator) == inspect.GEN_SUSPENDED:
                    generator.close()
            step = step.tb_next
        chained = chained.__context__


def _is_raised_here(error: BaseException) -> bool:
    """Whether all functions between the handler of `error` and its origin are of this package or library of sockets."""
    step = error.__traceback__
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__"))
        if module not in _SOCKETS and not module.startswith("mse_grad"):
            return False
        step = step.tb_next
    return True


def _release(lock: Releasable) -> None:
    try:
        lock.release()
    except RuntimeError:  # another thread has just released it
        return
