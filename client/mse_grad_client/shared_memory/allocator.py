"""Allocator of the memory of one client that servers on the same host may map: segments, and the arrays in them."""

from __future__ import annotations

import math
import operator
import threading
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from mse_grad.pointer import is_known, pointer_of
from mse_grad.record import Record
from mse_grad.tensor import Array
from mse_grad_client.interrupts import raise_foreign
from mse_grad_client.shared_memory.segment import IS_SUPPORTED, Segment

__all__ = ["Allocator", "FreeRanges", "Place"]

# The size of a cache line: no two arrays share one.
_ALIGNMENT_BYTES = 64
# Smallest segment. The system provides a page when it is first written: a large segment costs no memory, and saves the
# handover of another one.
_LEAST_SEGMENT_BYTES = 64 * 2**20
# Empty segments are kept up to this size, for arrays to come.
_KEPT_BYTES = 512 * 2**20


class Place(Record):
    """Place of an array: its segment, and its offset there in bytes."""

    __slots__ = ("offset", "segment")

    def __init__(self, segment: Segment, offset: int) -> None:
        self.segment = segment
        self.offset = offset


class FreeRanges:
    """Free ranges of a segment, lowest first, no two of them adjacent. At first all of it is free.

    Args:
        size_bytes: Size of the segment.

    Attributes:
        free_bytes: Sum of the ranges.
    """

    def __init__(self, size_bytes: int) -> None:
        self.free_bytes = size_bytes
        self._starts = [0]
        self._sizes = [size_bytes]

    def allocate(self, size_bytes: int) -> int | None:
        """Allocates `size_bytes` at the lowest free place; returns its start, or None if no range is long enough."""
        index = next((index for index, free_bytes in enumerate(self._sizes) if free_bytes >= size_bytes), None)
        if index is None:
            return None
        start = self._starts[index]
        if self._sizes[index] == size_bytes:
            del self._starts[index], self._sizes[index]
        else:
            self._starts[index] += size_bytes
            self._sizes[index] -= size_bytes
        self.free_bytes -= size_bytes
        return start

    def free(self, start: int, size_bytes: int) -> None:
        """Frees an allocation that starts at `start`."""
        index = bisect_left(self._starts, start)
        self.free_bytes += size_bytes
        if index < len(self._starts) and start + size_bytes == self._starts[index]:
            size_bytes += self._sizes[index]
            del self._starts[index], self._sizes[index]
        if index and self._starts[index - 1] + self._sizes[index - 1] == start:
            self._sizes[index - 1] += size_bytes
        else:
            self._starts.insert(index, start)
            self._sizes.insert(index, size_bytes)


class _Block:
    __slots__ = ("offset", "ranges", "size_bytes")

    def __init__(self, ranges: FreeRanges, offset: int, size_bytes: int) -> None:
        self.ranges = ranges  # not the segment, whose descriptor would then stay open as long as the array
        self.offset = offset
        self.size_bytes = size_bytes


class _Lent(weakref.ref[Array]):
    """An array that was handed out. Its callback is written in C: a Python callback would lose an interrupt."""

    __slots__ = ("block",)
    block: _Block


class _Span:
    __slots__ = ("segment", "start", "stop")

    def __init__(self, start: int, stop: int, segment: Segment) -> None:
        self.start = start
        self.stop = stop
        self.segment = segment


class Allocator:
    """Allocates arrays in shared memory, and finds them again. Thread-safe.

    The memory of an array is reused once the array and all its views are gone. Arrays stay valid after `close`.

    Args:
        is_wanted: Whether a server on this host is known, or likely.

    Attributes:
        segments: All segments; a new tuple whenever they change.
        is_wanted: As given; while it is False, `empty` returns ordinary arrays.
        withdrawals: How often `withdraw` was called.
    """

    # Both are replaced as a whole, so that they may be read without the lock.
    segments: tuple[Segment, ...]
    _spans: tuple[_Span, ...]

    def __init__(self, *, is_wanted: bool = True) -> None:
        self.is_wanted = is_wanted
        self._begin()

    @property
    def is_empty(self) -> bool:
        """Whether there is no memory for arrays."""
        return not self._spans

    def empty(self, shape: int | Sequence[int], dtype: Any) -> Array:
        """Returns an uninitialized array in C order; an ordinary one if it has no elements, or if memory is short.

        Raises:
            ValueError, TypeError: As `numpy.empty`.
        """
        wanted = np.dtype(dtype)
        extents = _extents(shape)
        is_plain = wanted.subdtype is None and not wanted.hasobject and min(extents, default=1) > 0
        size_bytes = math.prod(extents) * wanted.itemsize
        is_shared = self.is_wanted and is_plain and size_bytes
        root = self._allocate(size_bytes) if is_shared else None
        if root is None:
            return np.empty(extents, wanted)
        array: Array = root.view(wanted).reshape(extents)
        return array

    def find(self, contents: memoryview) -> Place | None:
        """Returns the place of `contents`, the bytes of an array; None if they lie elsewhere."""
        spans = self._spans
        if not spans:
            return None
        address = _address_of(contents)
        for span in spans:
            if span.start <= address < span.stop:
                return Place(span.segment, address - span.start)
        return None

    def settle(self) -> None:
        """Frees the memory of arrays that are gone, and releases segments if many are empty."""
        if self._freed:
            with self._lock:
                try:
                    self._settle()
                except BaseException:  # a signal handler's, as in `_allocate`
                    self._forget_all()
                    raise

    def close(self) -> None:
        """Releases all segments; `empty` returns ordinary arrays from now on."""
        with self._lock:
            self._is_closed = True
            self._forget_all()

    def withdraw(self, lent: Sequence[Place], *, size_bytes: int = 0) -> None:
        """Takes the segments of `lent` out of use, because a server may still write there for an abandoned request.

        No new array will lie there. Existing arrays there become ordinary ones. A request of another thread may lose
        the server's writes to them: it compares `withdrawals` when it has ended.

        Args:
            lent: Places that the server may write to.
            size_bytes: Bytes at each place that belong to an array of the caller's, which must not see such writes; see
                Segment.detach. 0 if none do.
        """
        with self._lock:
            self.withdrawals += 1
            for place in lent:
                place.segment.is_withdrawn = True
            self._set_spans()
            if size_bytes:
                for place in lent:
                    place.segment.detach(place.offset, size_bytes)

    def reset_after_fork(self) -> None:
        """Makes a child process start afresh. Arrays that it inherited are ordinary ones, shared with its parent."""
        self._begin()

    def _begin(self) -> None:
        self.withdrawals = 0
        self._lock = threading.Lock()
        self._segments: dict[Segment, FreeRanges] = {}
        self._set_spans()
        self._is_closed = not IS_SUPPORTED
        self._last_number = 0
        # Filled when arrays are collected. That may happen in any code, so it must not acquire a lock.
        self._freed: deque[weakref.ref[Array]] = deque()
        self._lent: dict[int, _Lent] = {}

    def _allocate(self, size_bytes: int) -> Array | None:
        """Returns an array of `size_bytes` bytes, or None if the system has no memory left."""
        aligned_bytes = -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        with self._lock:
            if self._is_closed:
                return None
            try:
                self._settle()
                segment, offset = self._allocate_range(aligned_bytes)
                if segment is None:
                    return None
                root = np.frombuffer(segment.contents[offset : offset + size_bytes], np.uint8)
                block = _Block(self._segments[segment], offset, aligned_bytes)
                lent = _Lent(root, self._freed.append)
                lent.block = block
                self._lent[id(lent)] = lent
            except BaseException:  # a signal handler's: the free ranges may be half updated
                self._forget_all()
                raise
        return root

    def _forget_all(self) -> None:
        self._segments = {}
        self._lent = {}  # their memory may be half freed; it is no longer allocated from
        self._set_spans()

    def _settle(self) -> None:
        while self._freed:
            lent = self._lent.pop(id(self._freed.popleft()), None)
            if lent is not None:  # else an interrupt came before it was recorded
                lent.block.ranges.free(lent.block.offset, lent.block.size_bytes)
        kept_bytes = 0
        for segment, ranges in self._segments.copy().items():
            if ranges.free_bytes == segment.size_bytes:
                kept_bytes += segment.size_bytes
                if kept_bytes > _KEPT_BYTES or segment.is_withdrawn:
                    del self._segments[segment]
                    self._set_spans()

    def _allocate_range(self, aligned_bytes: int) -> tuple[Segment | None, int]:
        for segment, ranges in self._segments.items():
            offset = None if segment.is_withdrawn else ranges.allocate(aligned_bytes)
            if offset is not None:
                return segment, offset
        try:
            segment = Segment.create(self._last_number + 1, max(aligned_bytes, _LEAST_SEGMENT_BYTES))
        except (OSError, ValueError, OverflowError) as error:
            raise_foreign(error)
            return None, 0
        self._last_number += 1
        ranges = FreeRanges(segment.size_bytes)
        self._segments[segment] = ranges
        ranges.allocate(aligned_bytes)
        self._set_spans()
        return segment, 0

    def _set_spans(self) -> None:
        self.segments = tuple(self._segments)
        starts = [_address_of(segment.contents) for segment in self.segments]
        self._spans = tuple(
            _Span(start, start + segment.size_bytes, segment)
            for start, segment in zip(starts, self.segments, strict=True)
            if not segment.is_withdrawn
        )


def _extents(shape: int | Sequence[int]) -> tuple[int, ...]:
    # A number that is no integer would pass the arithmetic here, and fail after the allocation.
    try:
        return (operator.index(shape),)  # type: ignore[arg-type]
    except TypeError:
        return tuple(map(operator.index, shape))  # type: ignore[arg-type]


def _address_of(contents: memoryview) -> int:
    owner = contents.obj
    if is_known() and isinstance(owner, np.ndarray) and owner.nbytes == contents.nbytes:
        return pointer_of(owner).value or 0
    address: int = np.frombuffer(contents, np.uint8).__array_interface__["data"][0]
    return address
