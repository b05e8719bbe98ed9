"""One gradient in parts that many workers compute at the same time."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from mse_grad.reasons import Reason
from mse_grad.tensor import Reduction
from mse_grad_client.errors import Cancelled
from mse_grad_client.interrupts import Latch
from mse_grad_client.request import GradientRequest

__all__ = ["compute_in_tasks", "compute_in_threads"]

# Bytes of predict in a part: what a server answers in the default window of a stream. Far more parts than workers let a
# fast worker take more of them than a slow one.
_PART_BYTES = 4 * 2**20
# Parts of one request under way at a time: two for each of eight workers, so that each has its next part when it has
# computed one.
_MOST_AT_ONCE = 16
# Longest time for the threads of the other parts to end after a part failed. Those that still write to the gradient
# take milliseconds; those that wait for a connection write nothing later.
_END_TIMEOUT_S = 1.0


def compute_in_threads(request: GradientRequest, send: Callable[[GradientRequest], None]) -> None:
    """Computes `request`, in parts if it is large: several at a time, each in a thread; raises the first error.

    Args:
        request: The request.
        send: Fills the gradient of a request; raises MseGradError.
    """
    parts = _parts_of(request)
    if len(parts) < 2:
        send(request)
        return
    work = _Work(parts, send)
    try:
        work.begin(min(_MOST_AT_ONCE, len(parts)))
        work.over.wait()
    finally:
        work.end()
    if work.error is not None:
        raise work.error


async def compute_in_tasks(request: GradientRequest, send: Callable[[GradientRequest], Awaitable[None]]) -> None:
    """As `compute_in_threads`, for a task: with tasks of the same event loop, which end with it."""
    parts = _parts_of(request)
    if len(parts) < 2:
        await send(request)
        return
    left = deque(parts)

    async def work() -> None:
        while left:
            await send(left.popleft())

    tasks = [asyncio.ensure_future(work()) for _ in range(min(_MOST_AT_ONCE, len(parts)))]
    try:
        await asyncio.gather(*tasks)
    except BaseException as error:
        for task in tasks:
            task.cancel()
        if not isinstance(error, GeneratorExit):  # nobody awaits the gradient any longer, so nobody awaits this either
            await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _parts_of(request: GradientRequest) -> list[GradientRequest]:
    """Returns requests for consecutive ranges of the elements, which fill the same gradient; `request` if it is small.

    Each has the N of the whole, so that the bits are those of the whole.
    """
    size = request.dtype.itemsize_bytes
    step = max(1, _PART_BYTES // size)
    if request.count <= step:
        return [request]
    numel = (request.numel or request.count) if request.reduction is Reduction.MEAN else 0
    parts = []
    for start in range(0, request.count, step):
        count = min(step, request.count - start)
        part = slice(start * size, (start + count) * size)
        one = copy.copy(request)
        one.shape, one.count, one.numel, one.is_cancelled = (count,), count, numel, False
        one.predict, one.label, one.y = request.predict[part], request.label[part], request.y[part]
        if not request.scalar_dout:
            one.dout, one.dout_shape = request.dout[part], (count,)
        parts.append(one)
    return parts


class _Work:
    """The parts of one request, and the threads that send them.

    Attributes:
        over: Set when all parts have ended, or one has failed.
        error: Why it failed.
    """

    def __init__(self, parts: Sequence[GradientRequest], send: Callable[[GradientRequest], None]) -> None:
        self.over = Latch()
        self.error: BaseException | None = None
        self._parts = parts
        self._send = send
        self._left = deque(parts)
        self._ended = deque[None]()  # one for each part; appending is a single step
        self._threads: list[threading.Thread] = []

    def begin(self, threads: int) -> None:
        """Starts the threads, or fewer if the system has none left; raises RuntimeError if it has none at all."""
        for _ in range(threads):
            thread = threading.Thread(target=self._run, name="mse-grad-part", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def end(self) -> None:
        """Ensures that nothing is written to the gradient from now on: cancels the parts that have not ended."""
        self._left.clear()
        if len(self._ended) < len(self._parts):
            for part in self._parts:
                part.is_cancelled = True  # first: an attempt that begins now checks it once it is the holder
                holder = part.holder
                if holder is not None:
                    holder.fail(Cancelled("another part of the gradient has failed", reason=Reason.CANCELLED))
        give_up_s = time.monotonic() + _END_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, give_up_s - time.monotonic()))

    def _run(self) -> None:
        while True:
            try:
                part = self._left.popleft()
            except IndexError:
                return
            try:
                self._send(part)
            except BaseException as error:  # noqa: BLE001 - the caller raises it
                self.error = self.error or error
                self.over.set()
                return
            self._ended.append(None)
            if len(self._ended) == len(self._parts):
                self.over.set()
