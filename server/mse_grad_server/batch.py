"""The chunks of one message, computed together into one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mse_grad.frame import Chunk, open_results
from mse_grad.tensor import Array, elements
from mse_grad_server.backends.base import ComputeAll, Gradient
from mse_grad_server.check import Work
from mse_grad_server.errors import DeadlineExceeded, DeviceUnavailable
from mse_grad_server.segments import SharedOperands

__all__ = ["Batch", "OpenRequest"]


@dataclass(slots=True, eq=False)
class OpenRequest:
    """A request of a stream, from its header to its last gradient.

    Attributes:
        id: Its id on the stream.
        request_id: The caller's name for it, or the server's.
        work: What it asks for.
        scalar_dout: The one element of dout, or None.
        admitted_bytes: What the engine admitted it with.
        began_s: When its header came.
        deadline_s: When the caller stops waiting; infinite where never.
        progress_s: When anything of it last came in or was computed.
        trace_id: Names the trace that it belongs to; "" for none.
        received: Elements that came.
        computed: Elements that were computed.
        is_open: False once it was answered or failed.
    """

    id: int
    request_id: str
    work: Work
    scalar_dout: Array | None
    admitted_bytes: int
    began_s: float
    deadline_s: float
    progress_s: float
    trace_id: str = ""
    received: int = 0
    computed: int = 0
    is_open: bool = True


class _Item(NamedTuple):
    request: OpenRequest
    offset: int
    n: int
    chunk: Chunk | None
    shared: SharedOperands | None = None


class Batch:
    """Chunks to compute. Filled in the event loop, computed there or in a thread, then read in the event loop.

    Attributes:
        elements: Elements of all gradients.
        operand_bytes: Bytes of all operands in the message.
        gradient_bytes: Bytes of all gradients.
        shared_bytes: Bytes of those that go to shared memory.
        shared_elements: Elements of those.
        shared_operand_bytes: Bytes of the operands in shared memory.
        operand_elements: Elements of all operands in the message.
        shared_operand_elements: Elements of those in shared memory.
        encode_s: Time that laying out the answer took.
        kernel_s: Time that computing took.
        answered: Each request with the number of its elements that were computed, in the order of the chunks.
        failures: The requests that failed on the way, with why.
    """

    def __init__(self) -> None:
        self.elements = 0
        self.operand_bytes = 0
        self.gradient_bytes = 0
        self.shared_bytes = 0
        self.shared_elements = 0
        self.shared_operand_bytes = 0
        self.operand_elements = 0
        self.shared_operand_elements = 0
        self.encode_s = self.kernel_s = 0.0
        self.answered: list[tuple[OpenRequest, int]] = []
        self.failures: list[tuple[OpenRequest, BaseException]] = []
        self._items: list[_Item] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, request: OpenRequest, chunk: Chunk, n: int) -> None:
        """Appends a checked chunk of n elements."""
        size_bytes, dout_bytes = len(chunk.predict), len(chunk.dout)
        self.elements += n
        self.operand_elements += 3 * n if dout_bytes else 2 * n
        self.operand_bytes += 2 * size_bytes + dout_bytes
        self.gradient_bytes += size_bytes
        self._items.append(_Item(request, chunk.offset, n, chunk))

    def add_shared(self, request: OpenRequest, offset: int, operands: SharedOperands) -> None:
        """Appends a checked chunk in shared memory."""
        n, size_bytes = operands.y.size, operands.y.nbytes
        self.elements += n
        self.gradient_bytes += size_bytes
        self.shared_bytes += size_bytes
        self.shared_elements += n
        operands_each = 2 if operands.dout is None else 3
        self.shared_operand_elements += operands_each * n
        self.shared_operand_bytes += operands_each * size_bytes
        self._items.append(_Item(request, offset, n, None, operands))

    def add_empty(self, request: OpenRequest) -> None:
        """Appends the answer to a request without elements."""
        self._items.append(_Item(request, 0, 0, None))

    def parts(self, least_bytes: int) -> Iterator[Batch]:
        """Yields batches of the same chunks in the same order, each of `least_bytes` of gradients or what is left."""
        part = Batch()
        for item in self._items:
            if item.chunk is not None:
                part.add(item.request, item.chunk, item.n)
            elif item.shared is not None:
                part.add_shared(item.request, item.offset, item.shared)
            else:
                part.add_empty(item.request)
            if part.gradient_bytes >= least_bytes:
                yield part
                part = Batch()
        if part:
            yield part

    def compute(
        self, compute_all: ComputeAll, now: Callable[[], float], *, fallback: ComputeAll | None = None
    ) -> bytes:
        """Returns the message with every gradient, empty where there is none; fills `answered` and `failures`.

        A request that ended meanwhile is left out, one that is too late or that the backend fails on becomes a failure;
        its neighbours are answered all the same.

        Args:
            compute_all: What computes.
            now: The time.
            fallback: What computes all of it where the device cannot; the answers then say so.
        """
        items = self._items
        falls_back = False
        while True:
            began_s = now()
            items = self._still_wanted(items, began_s)
            if not items:
                return b""
            message, views = open_results(
                [(item.request.id, item.offset, _y_bytes(item), falls_back) for item in items]
            )
            encoded_s = now()
            failed = _computed(items, views, compute_all)
            self.encode_s, self.kernel_s = encoded_s - began_s, now() - encoded_s
            if failed is None:
                self.answered = [(item.request, item.n) for item in items]
                return message
            if fallback is not None and not falls_back and isinstance(failed[1], DeviceUnavailable):
                compute_all, falls_back = fallback, True
                continue
            # What is in the message of the failed request cannot be cut out: the others are computed once more.
            self.failures.append(failed)
            items = [item for item in items if item.request is not failed[0]]

    def _still_wanted(self, items: list[_Item], now_s: float) -> list[_Item]:
        wanted = []
        for item in items:
            request = item.request
            if request.deadline_s <= now_s:
                late = DeadlineExceeded("the time that the caller gave ran out before the gradient was computed")
                self.failures.append((request, late))
            elif request.is_open:
                wanted.append(item)
        return wanted


def _y_bytes(item: _Item) -> int:
    """Returns the bytes of y that the message has for `item`."""
    return item.n * item.request.work.spec.dtype.itemsize_bytes if item.shared is None else 0


def _computed(
    items: list[_Item], views: list[memoryview], compute_all: ComputeAll
) -> tuple[OpenRequest, BaseException] | None:
    gradients, requests = [], []
    for (request, _, n, chunk, shared), view in zip(items, views, strict=True):
        spec = request.work.spec
        if shared is not None:
            dout = request.scalar_dout if shared.dout is None else shared.dout
            assert dout is not None
            gradients.append(Gradient(spec, shared.predict, shared.label, dout, shared.y, request.deadline_s))
            requests.append(request)
            continue
        if chunk is None or not n:
            continue
        dtype = spec.dtype
        dout = elements(chunk.dout, dtype) if request.scalar_dout is None else request.scalar_dout
        predict, label, y = elements(chunk.predict, dtype), elements(chunk.label, dtype), elements(view, dtype)
        gradients.append(Gradient(spec, predict, label, dout, y, request.deadline_s))
        requests.append(request)
    failure = compute_all(gradients)
    return None if failure is None else (requests[failure[0]], failure[1])
