"""Fakes of a server in the event loop of a test: its backend, and its clock."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

from mse_grad import formula
from mse_grad.tensor import DTYPES, Array, DType
from mse_grad_server.backends.base import Gradient, OneByOne
from support.waiting import PATIENCE_S

__all__ = ["FakeBackend", "FakeClock"]


class FakeBackend(OneByOne):
    """Backend that computes by the formula; the test may block it or make it fail."""

    name = "cpu"
    device = "fake"
    kernel_hash = "00"
    inline_bytes = 2**30
    threads = 1
    part_bytes = 2**30

    def __init__(self, dtypes: tuple[DType, ...] = DTYPES) -> None:
        self.dtypes = dtypes
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.fails_on: Callable[[Array], bool] = lambda predict: True
        self.computed_sizes: list[int] = []
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def compute(self, gradient: Gradient) -> None:
        spec, predict, label, dout, y = gradient[:5]
        self.started.release()
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None and self.fails_on(predict):
            raise self.error
        c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
        formula.gradient_into(y, predict, label, dout, c=c, dtype=spec.dtype)
        self.computed_sizes.append(predict.size)

    def close(self) -> None:
        self.is_open = False


class FakeClock:
    """Clock that stands still until the test advances it."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []

    def now(self) -> float:
        return self._now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (when_s, next(self._numbers), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Advances the time and calls each timer at its own time; in the event loop."""
        end_s = self._now_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            when_s, _, timer = heapq.heappop(self._timers)
            self._now_s = max(self._now_s, when_s)
            if timer.callback is not None:
                timer.callback()
        self._now_s = end_s

    def oversleep(self, seconds: float) -> None:
        """Advances the time as in a suspended process: each due timer is called once, and late."""
        self._now_s += seconds
        self.advance(0)

    @property
    def pending(self) -> int:
        """Number of timers that are not yet called."""
        return sum(timer.callback is not None for _, _, timer in self._timers)


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None
