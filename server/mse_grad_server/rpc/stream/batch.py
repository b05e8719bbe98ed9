"""Batch of the chunks of one message, which are computed together into one answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mse_grad.codec import Chunk, open_results
from mse_grad.tensor import elements
from mse_grad_server.backends.base import ComputeAll, Gradient
from mse_grad_server.backends.progress import Phase, late
from mse_grad_server.errors import Cancelled, DeviceUnavailable
from mse_grad_server.metrics.collectors import TransferCounter
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.process.timeline import Timeline
from mse_grad_server.rpc.stream.open_request import OpenRequest
from mse_grad_server.shared_memory.segments import SharedOperands

__all__ = ["Batch", "Transfer"]


class _Item(NamedTuple):
    request: OpenRequest
    offset: int
    n: int
    chunk: Chunk | None
    shared: SharedOperands | None = None


class Transfer:
    """Sizes of the operands and gradients of a batch, by one way: in messages or in shared memory.

    Attributes:
        operand_elements: Elements of all operands.
        operand_bytes: Bytes of all operands.
        gradient_elements: Elements of all gradients.
        gradient_bytes: Bytes of all gradients.
    """

    # Class attributes instead of `__init__`, which would cost two calls for each message.
    operand_elements = 0
    operand_bytes = 0
    gradient_elements = 0
    gradient_bytes = 0


class Batch:
    """Chunks to compute. Filled in the event loop, computed there or in a thread, then read in the event loop.

    Attributes:
        in_message: Sizes of the chunks in the message.
        in_shared: Sizes of the chunks in shared memory.
        queued_s: Time when it began to wait for a thread; None if the event loop computes it.
        began_s: Time when its computation began.
        encode_s: Time to lay out the answer.
        kernel_s: Time to compute.
        answered: Each request with the number of its elements that were computed, in the order of the chunks.
        failures: Each request that failed, with its error.
    """

    def __init__(self) -> None:
        self.in_message = Transfer()
        self.in_shared = Transfer()
        self.queued_s: float | None = None
        self.began_s = self.encode_s = self.kernel_s = 0.0
        self.answered: list[tuple[OpenRequest, int]] = []
        self.failures: list[tuple[OpenRequest, BaseException]] = []
        self._items: list[_Item] = []

    def __len__(self) -> int:
        return len(self._items)

    @property
    def earliest_deadline_s(self) -> float:
        """Earliest time when nobody waits for one of its requests any longer; infinite without one."""
        return min((item.request.deadline_s for item in self._items), default=math.inf)

    def add(self, request: OpenRequest, chunk: Chunk, n: int) -> None:
        """Appends a checked chunk of n elements."""
        size_bytes, dout_bytes = len(chunk.predict), len(chunk.dout)
        transfer = self.in_message
        transfer.operand_elements += 3 * n if dout_bytes else 2 * n
        transfer.operand_bytes += 2 * size_bytes + dout_bytes
        transfer.gradient_elements += n
        transfer.gradient_bytes += size_bytes
        self._items.append(_Item(request, chunk.offset, n, chunk))

    def add_shared(self, request: OpenRequest, offset: int, operands: SharedOperands) -> None:
        """Appends a checked chunk in shared memory."""
        n, size_bytes = operands.y.size, operands.y.nbytes
        operand_count = 2 if operands.dout is None else 3
        transfer = self.in_shared
        transfer.operand_elements += operand_count * n
        transfer.operand_bytes += operand_count * size_bytes
        transfer.gradient_elements += n
        transfer.gradient_bytes += size_bytes
        self._items.append(_Item(request, offset, n, None, operands))

    def add_empty(self, request: OpenRequest) -> None:
        """Appends the answer to a request without elements."""
        self._items.append(_Item(request, 0, 0, None))

    def enqueued(self, now_s: float) -> None:
        """Notes that it waits for a thread from now on."""
        self.queued_s = now_s
        self._enter(Phase.QUEUED)

    def parts(self, least_bytes: int) -> Iterator[Batch]:
        """Yields batches of the same chunks in the same order, each but the last with `least_bytes` of gradients."""
        part = Batch()
        for item in self._items:
            if item.chunk is not None:
                part.add(item.request, item.chunk, item.n)
            elif item.shared is not None:
                part.add_shared(item.request, item.offset, item.shared)
            else:
                part.add_empty(item.request)
            if part.in_message.gradient_bytes + part.in_shared.gradient_bytes >= least_bytes:
                yield part
                part = Batch()
        if part:
            yield part

    def compute(
        self, compute_all: ComputeAll, now: Callable[[], float], *, fallback: ComputeAll | None = None
    ) -> bytes:
        """Returns the message with every gradient, empty without any; fills `answered` and `failures`.

        A request that has ended meanwhile is left out. A request that is past its deadline, or on which the backend
        fails, becomes a failure; the other requests are answered all the same. In a thread that is checked before each
        step; in the event loop nothing happens between them.

        Args:
            compute_all: Computes the gradients.
            now: Returns the time.
            fallback: Computes all gradients if the device is unavailable; the answers then say so.
        """
        items, in_thread = self._items, self.queued_s is not None
        phase, falls_back = Phase.QUEUED, False
        while True:
            began_s = now()
            items = self._still_wanted(items, began_s, phase)
            if not items:
                return b""
            phase = Phase.ENCODE
            if in_thread:
                self._enter(phase)
            message, views = open_results(
                [(item.request.id, item.offset, _y_bytes(item), falls_back) for item in items]
            )
            encoded_s = now()
            if in_thread:
                wanted = self._still_wanted(items, encoded_s, phase)
                if len(wanted) < len(items):  # its part cannot be cut out of the message
                    items = wanted
                    continue
                phase = Phase.KERNEL
                self._enter(phase)
            failed = _computed(items, views, compute_all, in_thread=in_thread)
            self.began_s, self.encode_s, self.kernel_s = began_s, encoded_s - began_s, now() - encoded_s
            if failed is None:
                self.answered = [(item.request, item.n) for item in items]
                return message
            if fallback is not None and not falls_back and isinstance(failed[1], DeviceUnavailable):
                compute_all, falls_back = fallback, True
                continue
            # The part of the failed request cannot be cut out of the message, so the others are computed again.
            if not isinstance(failed[1], Cancelled):
                self.failures.append(failed)
            items = [item for item in items if item.request is not failed[0]]

    def count(self, recorder: Recorder, transferred: TransferCounter) -> None:
        """Counts the computed batch.

        Args:
            recorder: Counts the elements, and the operands and gradients in shared memory.
            transferred: Counter of the operands and gradients in messages.
        """
        in_message, in_shared = self.in_message, self.in_shared
        elements_computed = in_message.gradient_elements + in_shared.gradient_elements
        recorder.computed(elements_computed, encode_s=self.encode_s, kernel_s=self.kernel_s)
        if in_message.operand_bytes or not in_shared.gradient_elements:
            transferred.count(
                in_message.operand_elements,
                in_message.gradient_elements,
                in_message.operand_bytes,
                in_message.gradient_bytes,
            )
        if in_shared.gradient_elements:
            recorder.computed_in_shared_memory(in_shared.gradient_elements)
            recorder.traffic.shared_memory.count(
                in_shared.operand_elements,
                in_shared.gradient_elements,
                in_shared.operand_bytes,
                in_shared.gradient_bytes,
            )

    def trace(self, timeline: Timeline, *, has_kernel: bool) -> None:
        """Adds the phases of the computed batch to a request of it.

        Args:
            timeline: Timeline of the request.
            has_kernel: Whether computing is one phase, because the backend adds none of its own.
        """
        encoded_s = self.began_s + self.encode_s
        computed_s = encoded_s + self.kernel_s
        timeline.add_computation(self.queued_s, self.began_s, encoded_s, computed_s, has_kernel=has_kernel)

    def _enter(self, phase: Phase) -> None:
        for item in self._items:
            item.request.phase = phase

    def _still_wanted(self, items: list[_Item], now_s: float, phase: Phase) -> list[_Item]:
        wanted = []
        for item in items:
            request = item.request
            if request.deadline_s <= now_s:
                self.failures.append((request, late(phase)))
            elif request.is_open:
                wanted.append(item)
        return wanted


def _y_bytes(item: _Item) -> int:
    """Returns the size of y in the message, 0 if y lies in shared memory."""
    return item.n * item.request.work.spec.dtype.itemsize_bytes if item.shared is None else 0


def _computed(
    items: list[_Item], views: list[memoryview], compute_all: ComputeAll, *, in_thread: bool
) -> tuple[OpenRequest, BaseException] | None:
    gradients, requests = [], []
    for (request, _, n, chunk, shared), view in zip(items, views, strict=True):
        spec, progress = request.work.spec, request if in_thread else None
        if shared is not None:
            dout = request.scalar_dout if shared.dout is None else shared.dout
            assert dout is not None
            predict, label, y = shared.predict, shared.label, shared.y
            gradients.append(
                Gradient(spec, predict, label, dout, y, request.deadline_s, request.origin.timeline, progress)
            )
            requests.append(request)
            continue
        if chunk is None or not n:
            continue
        dtype = spec.dtype
        dout = elements(chunk.dout, dtype) if request.scalar_dout is None else request.scalar_dout
        predict, label, y = elements(chunk.predict, dtype), elements(chunk.label, dtype), elements(view, dtype)
        gradients.append(Gradient(spec, predict, label, dout, y, request.deadline_s, request.origin.timeline, progress))
        requests.append(request)
    failure = compute_all(gradients)
    return None if failure is None else (requests[failure[0]], failure[1])
