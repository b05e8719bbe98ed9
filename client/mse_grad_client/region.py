"""The memory of one client that servers on the same host may map: segments, and arrays that lie in them."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mse_grad.pointer import IS_KNOWN, pointer_of
from mse_grad.tensor import Array
from mse_grad_client.free_ranges import FreeRanges
from mse_grad_client.segment import IS_SUPPORTED, Segment

__all__ = ["Place", "Region"]

# A cache line, so that no two arrays share one.
_ALIGNMENT_BYTES = 64
# Pages are taken when they are first written: a large segment costs no memory, and spares handing over another one.
_LEAST_SEGMENT_BYTES = 64 * 2**20
# Segments in which nothing lies any more are kept up to this for the arrays to come.
_KEPT_BYTES = 512 * 2**20


class Place(NamedTuple):
    """Where an array lies: its segment, and bytes from the start of that."""

    segment: Segment
    offset: int


class _Block(NamedTuple):
    segment: Segment
    offset: int
    size_bytes: int


class _Span(NamedTuple):
    start: int
    stop: int
    segment: Segment


class Region:
    """Hands out arrays, and knows where they lie. Any number of threads.

    An array's room is used again once neither it nor a view of it is left. Arrays stay valid after `close`.

    Attributes:
        segments: The segments there are; another tuple where they change.
    """

    # Replaced as a whole, so that they may be read without the lock.
    segments: tuple[Segment, ...]
    _spans: tuple[_Span, ...]

    def __init__(self) -> None:
        self._begin()

    @property
    def is_empty(self) -> bool:
        """Whether no array can lie here."""
        return not self._spans

    def empty(self, shape: int | Sequence[int], dtype: Any) -> Array:
        """Returns an array of unset elements in C order; an ordinary one where it has no elements, or no room is had.

        Raises:
            ValueError, TypeError: As `numpy.empty`.
        """
        wanted = np.dtype(dtype)
        extents = (shape,) if isinstance(shape, int) else tuple(shape)
        size_bytes = math.prod(extents) * wanted.itemsize
        root = None if size_bytes <= 0 or wanted.hasobject else self._take(size_bytes)
        if root is None:
            return np.empty(extents, wanted)
        array: Array = root.view(wanted).reshape(extents)
        return array

    def find(self, contents: memoryview) -> Place | None:
        """Returns where `contents`, the bytes of an array, lie; None where not here."""
        spans = self._spans
        if not spans:
            return None
        address = _address_of(contents)
        for start, stop, segment in spans:
            if start <= address < stop:
                return Place(segment, address - start)
        return None

    def settle(self) -> None:
        """Uses the room of arrays that are gone again, and gives segments back where many are free."""
        if self._freed:
            with self._lock:
                self._settle()

    def close(self) -> None:
        """Gives back what is free; nothing is handed over from now on, and arrays are ordinary ones."""
        with self._lock:
            self._is_closed = True
            for segment in self._segments:
                segment.close()
            self._segments.clear()
            self._set_spans()

    def reset_after_fork(self) -> None:
        """Lets a child process start afresh. Arrays that it inherited are ordinary ones, shared with its parent."""
        for segment in self._segments:
            segment.close()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._segments: dict[Segment, FreeRanges] = {}
        self._set_spans()
        self._is_closed = not IS_SUPPORTED
        self._last_number = 0
        # Filled by finalisers, which may run within anything and so must not take a lock.
        self._freed: deque[_Block] = deque()

    def _take(self, size_bytes: int) -> Array | None:
        """Returns `size_bytes` bytes, or None where the system has no more."""
        room_bytes = -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        with self._lock:
            if self._is_closed:
                return None
            self._settle()
            segment, offset = self._room(room_bytes)
            if segment is None:
                return None
            root = np.frombuffer(segment.contents[offset : offset + size_bytes], np.uint8)
            weakref.finalize(root, self._freed.append, _Block(segment, offset, room_bytes)).atexit = False
        return root

    def _settle(self) -> None:
        while self._freed:
            block = self._freed.popleft()
            ranges = self._segments.get(block.segment)
            if ranges is not None:
                ranges.give_back(block.offset, block.size_bytes)
        kept_bytes = 0
        for segment, ranges in list(self._segments.items()):
            if ranges.free_bytes == segment.size_bytes:
                kept_bytes += segment.size_bytes
                if kept_bytes > _KEPT_BYTES:
                    del self._segments[segment]
                    segment.close()
                    self._set_spans()

    def _room(self, room_bytes: int) -> tuple[Segment | None, int]:
        for segment, ranges in self._segments.items():
            offset = ranges.take(room_bytes)
            if offset is not None:
                return segment, offset
        try:
            segment = Segment(self._last_number + 1, max(room_bytes, _LEAST_SEGMENT_BYTES))
        except (OSError, ValueError, OverflowError):
            return None, 0
        self._last_number += 1
        ranges = FreeRanges(segment.size_bytes)
        self._segments[segment] = ranges
        ranges.take(room_bytes)
        self._set_spans()
        return segment, 0

    def _set_spans(self) -> None:
        self.segments = tuple(self._segments)
        starts = [_address_of(segment.contents) for segment in self.segments]
        self._spans = tuple(
            _Span(start, start + segment.size_bytes, segment)
            for start, segment in zip(starts, self.segments, strict=True)
        )


def _address_of(contents: memoryview) -> int:
    owner = contents.obj
    if IS_KNOWN and isinstance(owner, np.ndarray) and owner.nbytes == contents.nbytes:
        return pointer_of(owner).value or 0
    address: int = np.frombuffer(contents, np.uint8).__array_interface__["data"][0]
    return address
