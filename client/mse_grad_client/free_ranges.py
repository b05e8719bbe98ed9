"""Which bytes of a segment are free."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["FreeRanges"]


class FreeRanges:
    """The free ranges of a segment, lowest first, no two of them adjacent; all of it at the start.

    Attributes:
        free_bytes: Their sum.
    """

    def __init__(self, size_bytes: int) -> None:
        self.free_bytes = size_bytes
        self._starts = [0]
        self._sizes = [size_bytes]

    def take(self, size_bytes: int) -> int | None:
        """Returns the start of `size_bytes` that were free, the lowest there are; None where there is no such room."""
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

    def give_back(self, start: int, size_bytes: int) -> None:
        """Frees what `take` returned."""
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
