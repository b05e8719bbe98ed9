"""Segments of shared memory that a stream has mapped, by number, and arrays over ranges of them."""

from __future__ import annotations

import asyncio
import mmap
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from mse_grad.codec import SharedRange
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Array, DType
from mse_grad_server.errors import SharedMemoryFull, SharedMemoryUnusable
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.settings.model import size_text
from mse_grad_server.shared_memory.memfd import Memfd, inspect_memfd, map_memfd

__all__ = ["Budget", "Segments", "SharedOperands"]

# Most segments of a stream and of the server: each mapping keeps a descriptor, and a process often may have 1024.
_MOST_SEGMENTS_PER_STREAM = 64
_MOST_SEGMENTS = 512


class SharedOperands(NamedTuple):
    """Arrays of the operands and of the gradient of a chunk; `dout` is None if the header has it."""

    predict: Array
    label: Array
    dout: Array | None
    y: Array


class Budget:
    """Bound on the memory that all streams together have mapped; belongs to the event loop, except `release`.

    Withdrawn memory counts until the last computation in it has ended.

    Args:
        metrics: Metrics of mapped segments and bytes.
        most_bytes: Most bytes mapped at a time.
    """

    def __init__(self, metrics: Metrics, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        # Finalisers append to it. They may run inside any other code, so they must not take a lock.
        self._released: list[int] = []
        self._segments = 0
        self._size_bytes = 0

    def reserve(self, size_bytes: int) -> None:
        """Counts a mapping, or counts nothing and raises SharedMemoryFull."""
        self._settle()
        if self._segments >= _MOST_SEGMENTS or self._size_bytes + size_bytes > self._most_bytes:
            raise SharedMemoryFull(
                f"{self._segments} segments of {size_text(self._size_bytes)} are mapped and {size_text(size_bytes)} "
                f"asked for; the server maps at most {_MOST_SEGMENTS} and {size_text(self._most_bytes)}"
            )
        self._segments += 1
        self._size_bytes += size_bytes
        self._publish()

    def release(self, size_bytes: int) -> None:
        """Releases the bytes of a mapping that is gone; callable from any thread."""
        self._released.append(size_bytes)
        with suppress(RuntimeError):  # the loop has ended, and the budget with it
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        while self._released:
            self._segments -= 1
            self._size_bytes -= self._released.pop()
        self._publish()

    def _publish(self) -> None:
        self._metrics.shared_memory_segments.set(self._segments)
        self._metrics.shared_memory_bytes.set(self._size_bytes)


class _Segment(NamedTuple):
    size_bytes: int
    inode: tuple[int, int]
    is_writable: bool
    operands: memoryview  # read-only: a mistake here must not write to memory that the client lent for reading
    gradients: memoryview


class Segments:
    """Segments of one stream; belongs to the event loop.

    A mapping ends with the last reference to it: arrays that a computation uses keep their mapping.

    Args:
        budget: Budget of all streams.
        most_bytes: Most bytes mapped at a time for this stream.
    """

    def __init__(self, budget: Budget, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._budget = budget
        self._segments: dict[int, _Segment] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._segments)

    def add(self, numbers: Sequence[int], descriptors: Sequence[int]) -> None:
        """Maps the memory behind each descriptor under its number; if one fails, none is mapped.

        The caller keeps the descriptors.

        Raises:
            SharedMemoryUnusable: A number is 0 or taken, the numbers are not as many as the descriptors, or
                `inspect_memfd` refuses a descriptor; or all were withdrawn, because the stream ends.
            SharedMemoryFull: A bound on mapped memory is reached.
        """
        if self._is_closed and numbers:  # the connection stays open while a computation uses earlier memory
            raise SharedMemoryUnusable("the stream is ending and takes no more segments")
        if len(numbers) != len(descriptors):
            raise SharedMemoryUnusable(
                f"{len(numbers)} segments came with {len(descriptors)} descriptors; each needs one"
            )
        added: dict[int, _Segment] = {}
        for number, descriptor in zip(numbers, descriptors, strict=True):
            if not number or number in self._segments or number in added:
                raise SharedMemoryUnusable(f"segment {number} is taken or 0; give each segment a new number from 1 on")
            memfd = inspect_memfd(descriptor)
            others = {**self._segments, **added}
            self._check_room(memfd, others)
            for other, segment in others.items():
                if segment.inode == memfd.inode:
                    raise SharedMemoryUnusable(f"segment {number} is the memory of segment {other}; hand it over once")
            added[number] = self._mapped(descriptor, memfd)
        self._segments.update(added)

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Withdraws segments; if one is unknown, withdraws the others and raises ContractError SEGMENT_UNKNOWN."""
        unknown = [number for number in numbers if self._segments.pop(number, None) is None]
        if unknown:
            raise _unknown(unknown[0], field="withdrawn")

    def close(self) -> None:
        """Withdraws every segment for good; a second call does nothing."""
        self._is_closed = True
        self._segments.clear()

    def operands(self, shared: SharedRange, dtype: DType, *, scalar_dout: bool) -> SharedOperands:
        """Returns arrays over the ranges in `shared`, of `shared.elements` >= 1 elements each.

        Raises:
            ContractError: SEGMENT_UNKNOWN, or SHARED_RANGE_INVALID if a range leaves its segment or is not aligned to
                its elements, y lies in read-only memory, or y overlaps an operand.
        """
        n = shared.elements
        predict = self._range("predict", shared.predict_segment, shared.predict_offset, n, dtype)
        label = self._range("label", shared.label_segment, shared.label_offset, n, dtype)
        y = self._range("y", shared.y_segment, shared.y_offset, n, dtype)
        size_bytes = n * dtype.itemsize_bytes
        operands = [
            ("predict", shared.predict_segment, shared.predict_offset),
            ("label", shared.label_segment, shared.label_offset),
        ]
        dout = None
        if not scalar_dout:
            dout = self._range("dout", shared.dout_segment, shared.dout_offset, n, dtype)
            operands.append(("dout", shared.dout_segment, shared.dout_offset))
        for field, segment, offset in operands:
            if segment == shared.y_segment and abs(offset - shared.y_offset) < size_bytes:
                raise _invalid("y", f"y and {field} overlap in segment {segment}; give y a separate range")
        return SharedOperands(predict, label, dout, y)

    def _range(self, field: str, number: int, offset: int, n: int, dtype: DType) -> Array:
        segment = self._segments.get(number)
        if segment is None:
            raise _unknown(number, field=f"shared.{field}_segment")
        size_bytes = n * dtype.itemsize_bytes
        if not 0 <= offset <= segment.size_bytes - size_bytes:
            raise _invalid(
                field,
                f"{field} has {size_bytes} bytes from {offset} on; segment {number} has {segment.size_bytes}",
            )
        if offset % dtype.itemsize_bytes:
            raise _invalid(
                field,
                f"{field} begins at byte {offset} of segment {number}; it must be a multiple of the "
                f"{dtype.itemsize_bytes} bytes of an element of {dtype.name}",
            )
        if field != "y":
            return np.frombuffer(segment.operands, dtype.numpy, n, offset)
        if not segment.is_writable:
            raise _invalid(field, f"y lies in segment {number}, which is sealed against writing")
        return np.frombuffer(segment.gradients, dtype.numpy, n, offset)

    def _check_room(self, memfd: Memfd, others: dict[int, _Segment]) -> None:
        mapped_bytes = sum(segment.size_bytes for segment in others.values())
        if len(others) >= _MOST_SEGMENTS_PER_STREAM or mapped_bytes + memfd.size_bytes > self._most_bytes:
            raise SharedMemoryFull(
                f"{len(others)} segments of {size_text(mapped_bytes)} are mapped for the stream and "
                f"{size_text(memfd.size_bytes)} asked for; it may have at most {_MOST_SEGMENTS_PER_STREAM} and "
                f"{size_text(self._most_bytes)}"
            )

    def _mapped(self, descriptor: int, memfd: Memfd) -> _Segment:
        self._budget.reserve(memfd.size_bytes)
        try:
            mapping: mmap.mmap = map_memfd(descriptor, memfd)
        except SharedMemoryFull:
            self._budget.release(memfd.size_bytes)
            raise
        weakref.finalize(mapping, self._budget.release, memfd.size_bytes).atexit = False
        contents = memoryview(mapping)
        return _Segment(memfd.size_bytes, memfd.inode, memfd.is_writable, contents.toreadonly(), contents)


def _unknown(number: int, *, field: str) -> ContractError:
    return ContractError(
        Reason.SEGMENT_UNKNOWN, field, f"segment {number} was not handed over for this stream, or was withdrawn"
    )


def _invalid(field: str, message: str) -> ContractError:
    return ContractError(Reason.SHARED_RANGE_INVALID, f"shared.{field}_offset", message)
