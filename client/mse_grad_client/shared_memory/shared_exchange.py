"""A request that travels through memory which the server has mapped."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from typing_extensions import override

from mse_grad.codec import Chunk, Result, SharedRange
from mse_grad.tensor import Array
from mse_grad_client.errors import InternalError, MseGradError
from mse_grad_client.request import GradientRequest
from mse_grad_client.shared_memory.allocator import Place
from mse_grad_client.stream.exchange import Exchange

__all__ = ["CopySlot", "Memory", "SharedExchange", "SharedTensor"]


class CopySlot:
    """Shared memory for a chunk of one tensor: its bytes, and the place where they lie."""

    __slots__ = ("contents", "place")

    def __init__(self, contents: Array, place: Place) -> None:
        self.contents = contents
        self.place = place


class SharedTensor:
    """One tensor of a request.

    Attributes:
        contents: All of its bytes.
        place: The place of the tensor in shared memory; None if it lies elsewhere.
        slots: The memory through which the chunks of a tensor that lies elsewhere are copied.
    """

    __slots__ = ("contents", "place", "slots")

    def __init__(self, contents: memoryview, place: Place | None, slots: Sequence[CopySlot] = ()) -> None:
        self.contents = contents
        self.place = place
        self.slots = slots


class Memory(Protocol):
    """The shared memory that an exchange lies in."""

    @property
    def withdrawals(self) -> int:
        """How often a part of it was withdrawn."""

    async def done(self, exchange: SharedExchange) -> None:
        """Waits until the server no longer writes to the gradient, for a short time, if a task called."""

    def recall(self, exchange: SharedExchange) -> None:
        """Returns once the server no longer writes to the gradient, or writes only to memory that no caller sees."""


class _Part:
    __slots__ = ("elements", "offset", "slot")

    def __init__(self, offset: int, elements: int, slot: int) -> None:
        self.offset = offset
        self.elements = elements
        self.slot = slot


class SharedExchange(Exchange):
    """An exchange whose chunks say only where the operands lie.

    A request whose tensors all lie in shared memory goes as one chunk, without a copy. Otherwise chunks are copied
    through a few slots, which stay in the processor's caches. The caller's thread copies them, in `advance`, so that
    several callers of one stream copy side by side. Therefore `wait` returns whenever there are chunks to copy, until
    the exchange `is_complete`.

    The server may still write to the gradient after the caller has given up: `wait_server_done` waits for its last
    answer, and `revoke` ensures that the caller sees nothing of later writes.

    Args:
        request: The request; it has elements.
        request_id: Its name in the server's logs.
        deadline: Deadline of the caller on the clock of time.monotonic.
        operands: predict, label, and dout unless it is a scalar.
        y: The gradient.
        chunk_elements: Elements of a chunk.
        slots: Chunks under way at a time.
        memory: Withdraws memory that the server may still write to.
        withdrawals: `memory.withdrawals` from before the places of the tensors were known.
    """

    is_shared = True

    def __init__(
        self,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
        operands: Sequence[SharedTensor],
        y: SharedTensor,
        chunk_elements: int,
        slots: int,
        memory: Memory,
        withdrawals: int,
    ) -> None:
        self._operands = operands
        self._y = y
        self._memory = memory
        self._withdrawals = withdrawals
        self._is_copied = y.place is None or any(tensor.place is None for tensor in operands)
        self._ready: deque[_Part] = deque()
        self._unanswered: deque[_Part] = deque()
        self._answered: deque[_Part] = deque()
        self._complete = 0
        self._is_woken = False
        self._is_server_done = False
        # A latch, as in Exchange; creating an Event would take longer than the rest of this constructor.
        self._server_done = threading.Lock()
        self._server_done.acquire()
        # Must come last: from here on the request refers to this exchange, and an interrupted caller revokes it.
        super().__init__(
            request, request_id=request_id, deadline=deadline, chunk_elements=chunk_elements, window_chunks=slots
        )

    def copy_first_chunks(self) -> None:
        """Copies the chunks of the first window to shared memory, as far as they lie elsewhere; called once."""
        for slot in range(self._window_chunks):
            self._copy_in(slot)

    @override
    def needs_caller(self) -> bool:
        """Whether the caller must act: there are chunks to copy, the request ended, or the caller abandoned it."""
        return self._is_woken or self._abandoned

    @property
    def is_complete(self) -> bool:
        """Whether the whole gradient lies in the caller's array."""
        return self._complete == self._request.count

    @override
    def next_chunk(self, id: int) -> Chunk | None:
        """Returns the next chunk that was copied in, or None if there is none."""
        if not self._ready:
            return None
        part = self._ready.popleft()
        self._unanswered.append(part)
        return Chunk(id, part.offset, b"", b"", b"", self._range(part))

    @override
    def receive(self, result: Result) -> bool:
        """Notes the answer to one chunk, whose elements are in shared memory; returns whether the request has ended."""
        with self._guard:
            if not self._unanswered:
                return self._abandoned
            part = self._unanswered.popleft()
            self._received += part.elements
            is_last = self._received == self._request.count
            if self._abandoned:
                if not self._unanswered:
                    self._note_server_done()
                return not self._unanswered
            if result.offset != part.offset or len(result.y):
                error = InternalError(
                    f"the server answered {len(result.y)} bytes at element {result.offset}; expected none, at element "
                    f"{part.offset}, because the gradient is in shared memory",
                    request_id=self._request_id,
                )
                self._end(error)
                return True
            if is_last and not self._is_copied:
                self._complete = self._received
                self._end(None)
            else:
                self._answered.append(part)
                self._wake()
            return is_last

    def advance(self) -> None:
        """Copies finished chunks to the caller's array and refills their slots; raises MseGradError.

        Runs in the caller's thread.
        """
        with self._guard:
            if self._error is not None:
                raise copy.copy(self._error)  # as Exchange does
            self._is_woken = False
            answered = list(self._answered)
            self._answered.clear()
        for part in answered:
            if self._y.place is None:
                _copy_out(self._y, part.slot, *self._bytes_of(part))
            self._complete += part.elements
            self._copy_in(part.slot)

    @override
    def server_done(self) -> None:
        with self._guard:
            self._note_server_done()

    def wait_server_done(self, timeout_s: float) -> bool:
        """Waits until the server has ended a request that failed; returns whether it has within `timeout_s`."""
        return self._is_server_done or self._server_done.acquire(timeout=timeout_s)

    @override
    def revoke(self) -> None:
        self.abandon()
        if self._unanswered and not self._is_server_done:
            self._memory.recall(self)
            self._is_server_done = True

    async def revoked(self) -> None:
        """As `revoke`, without blocking the loop of a task."""
        self.abandon()
        try:
            if self._unanswered and not self._is_server_done:
                await self._memory.done(self)
        finally:  # a second cancellation ends the wait alone
            self.revoke()

    @property
    def is_cut_off(self) -> bool:
        """Whether memory was withdrawn since the exchange began: then this side may not see the server's writes."""
        return self._withdrawals != self._memory.withdrawals

    @property
    def y(self) -> SharedTensor:
        """The gradient: the memory that the server may write to."""
        return self._y

    def _copy_in(self, slot: int) -> None:
        elements = min(self._chunk_elements, self._request.count - self._sent)
        if not elements:
            return
        part = _Part(self._sent, elements, slot)
        for tensor in self._operands:
            if tensor.place is None:
                _copy_in(tensor, slot, *self._bytes_of(part))
        self._sent += elements
        self._ready.append(part)

    def _range(self, part: _Part) -> SharedRange:
        start, _ = self._bytes_of(part)
        predict, label, *dout = (_address(tensor, part.slot, start) for tensor in self._operands)
        y = _address(self._y, part.slot, start)
        return SharedRange(part.elements, *predict, *label, *(dout[0] if dout else (0, 0)), *y)

    def _bytes_of(self, part: _Part) -> tuple[int, int]:
        size = self._request.dtype.itemsize_bytes
        return part.offset * size, part.elements * size

    def _note_server_done(self) -> None:
        if not self._is_server_done:
            self._is_server_done = True
            self._server_done.release()

    @override
    def _end(self, error: MseGradError | None) -> None:
        self._error = error
        self._wake()  # first: if this thread is interrupted here, the exchange is ended again
        self._abandoned = True

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._ended.release()
            if self.task is not None:
                self.task.wake()


def _address(tensor: SharedTensor, slot: int, start: int) -> tuple[int, int]:
    if tensor.place is not None:
        return tensor.place.segment.number, tensor.place.offset + start
    place = tensor.slots[slot].place
    return place.segment.number, place.offset


# Copies through NumPy release the GIL, unlike copies between memoryviews.


def _copy_in(tensor: SharedTensor, slot: int, start: int, size_bytes: int) -> None:
    contents = np.frombuffer(tensor.contents, np.uint8, size_bytes, start)
    tensor.slots[slot].contents[:size_bytes] = contents


def _copy_out(tensor: SharedTensor, slot: int, start: int, size_bytes: int) -> None:
    contents = np.frombuffer(tensor.contents, np.uint8, size_bytes, start)
    contents[:] = tensor.slots[slot].contents[:size_bytes]
