"""One request that travels through memory which the server has mapped."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mse_grad.frame import Chunk, Result, SharedRange
from mse_grad.tensor import Array
from mse_grad_client.errors import InternalError, MseGradError
from mse_grad_client.exchange import Exchange
from mse_grad_client.region import Place
from mse_grad_client.request import GradientRequest

__all__ = ["Lane", "Room", "SharedExchange"]


class Room(NamedTuple):
    """Shared memory for a chunk of one tensor: its bytes, and where they lie."""

    contents: Array
    place: Place


class Lane(NamedTuple):
    """One tensor of a request.

    Attributes:
        contents: Its bytes, all of them.
        place: Where it lies in shared memory; None where it does not.
        rooms: Where its chunks are copied through then, one room for each slot.
    """

    contents: memoryview
    place: Place | None
    rooms: Sequence[Room] = ()


class _Part(NamedTuple):
    offset: int
    elements: int
    slot: int


class SharedExchange(Exchange):
    """Chunks of which nothing travels but where they lie; see Exchange.

    A tensor that is shared goes in one chunk, without a copy. Others are copied through a few slots, which stay in the
    processor's caches. The caller's thread copies, in `advance`, so that callers of one stream copy side by side; so
    `wait` returns whenever there is something to copy, and again until the exchange `is_complete`.

    The server may still write to the gradient when nobody waits for it any more: `wait_quiet` tells when it has ended.
    """

    is_shared = True

    def __init__(
        self,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
        operands: Sequence[Lane],
        y: Lane,
        chunk_elements: int,
        slots: int,
    ) -> None:
        """Copies the first chunks.

        Args:
            request: What is asked for; it has elements.
            request_id: Its name.
            deadline: When to give up, of time.monotonic.
            operands: predict, label, and dout unless it is a scalar.
            y: The gradient.
            chunk_elements: Elements of a chunk.
            slots: Chunks under way at a time.
        """
        super().__init__(
            request, request_id=request_id, deadline=deadline, chunk_elements=chunk_elements, window_chunks=slots
        )
        self._operands = operands
        self._y = y
        self._is_copied = y.place is None or any(lane.place is None for lane in operands)
        self._ready: deque[_Part] = deque()
        self._unanswered: deque[_Part] = deque()
        self._answered: deque[_Part] = deque()
        self._complete = 0
        self._has_news = False
        self._is_quiet = False
        self._quiet = threading.Lock()  # a latch, as in Exchange: an Event takes longer to make than all of this
        self._quiet.acquire()
        for slot in range(slots):
            self._copy_in(slot)

    @property
    def has_ended(self) -> bool:
        """See Exchange; or whether there is something to copy."""
        return self._has_news or self._abandoned

    @property
    def is_complete(self) -> bool:
        """Whether the whole gradient is where the caller wants it."""
        return self._complete == self._request.count

    def next_chunk(self, id: int) -> Chunk | None:
        """Returns a chunk that was copied in, or None where there is none."""
        if not self._ready:
            return None
        part = self._ready.popleft()
        self._unanswered.append(part)
        return Chunk(id, part.offset, b"", b"", b"", self._range(part))

    def take(self, result: Result) -> bool:
        """See Exchange; the elements are in shared memory already."""
        with self._guard:
            if not self._unanswered:
                return self._abandoned
            part = self._unanswered.popleft()
            self._received += part.elements
            is_last = self._received == self._request.count
            if self._abandoned:
                if not self._unanswered:
                    self._hear()
                return not self._unanswered
            if result.offset != part.offset or len(result.y):
                error = InternalError(
                    f"the server answered {len(result.y)} bytes at element {result.offset}; expected the word that the "
                    f"gradient from element {part.offset} on is in shared memory",
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
        """Copies what was answered to where the caller wants it, and what comes next to where it was."""
        with self._guard:
            if self._error is not None:
                raise self._error
            self._has_news = False
            answered = list(self._answered)
            self._answered.clear()
        for part in answered:
            if self._y.place is None:
                _copy_out(self._y, part.slot, *self._bytes_of(part))
            self._complete += part.elements
            self._copy_in(part.slot)

    def hear_last(self) -> None:
        """See Exchange."""
        with self._guard:
            self._hear()

    def wait_quiet(self, timeout_s: float) -> bool:
        """Waits for the server's last word on a request that failed; returns whether it came."""
        if not self._quiet.acquire(timeout=timeout_s):
            return False
        self._quiet.release()
        return True

    def _copy_in(self, slot: int) -> None:
        elements = min(self._chunk_elements, self._request.count - self._sent)
        if not elements:
            return
        part = _Part(self._sent, elements, slot)
        for lane in self._operands:
            if lane.place is None:
                _copy_in(lane, slot, *self._bytes_of(part))
        self._sent += elements
        self._ready.append(part)

    def _range(self, part: _Part) -> SharedRange:
        start, _ = self._bytes_of(part)
        predict, label, *dout = (_address(lane, part.slot, start) for lane in self._operands)
        y = _address(self._y, part.slot, start)
        return SharedRange(part.elements, *predict, *label, *(dout[0] if dout else (0, 0)), *y)

    def _bytes_of(self, part: _Part) -> tuple[int, int]:
        size = self._request.dtype.itemsize_bytes
        return part.offset * size, part.elements * size

    def _hear(self) -> None:
        if not self._is_quiet:
            self._is_quiet = True
            self._quiet.release()

    def _end(self, error: MseGradError | None) -> None:
        self._error = error
        self._abandoned = True
        self._wake()

    def _wake(self) -> None:
        if not self._has_news:
            self._has_news = True
            self._ended.release()


def _address(lane: Lane, slot: int, start: int) -> tuple[int, int]:
    if lane.place is not None:
        return lane.place.segment.number, lane.place.offset + start
    place = lane.rooms[slot].place
    return place.segment.number, place.offset


# NumPy copies without the GIL, unlike memoryviews.


def _copy_in(lane: Lane, slot: int, start: int, size_bytes: int) -> None:
    contents = np.frombuffer(lane.contents, np.uint8, size_bytes, start)
    lane.rooms[slot].contents[:size_bytes] = contents


def _copy_out(lane: Lane, slot: int, start: int, size_bytes: int) -> None:
    contents = np.frombuffer(lane.contents, np.uint8, size_bytes, start)
    contents[:] = lane.rooms[slot].contents[:size_bytes]
