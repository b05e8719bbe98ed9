from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mse_grad_client.shared_memory.allocator import FreeRanges

SIZE_BYTES = 1024


def test_the_lowest_range_is_allocated_first_and_again_when_it_is_free() -> None:
    ranges = FreeRanges(SIZE_BYTES)
    assert [ranges.allocate(256), ranges.allocate(256)] == [0, 256]
    ranges.free(0, 256)
    assert ranges.allocate(128) == 0


def test_no_allocation_is_longer_than_the_longest_free_range() -> None:
    ranges = FreeRanges(SIZE_BYTES)
    taken = [ranges.allocate(256) for _ in range(4)]
    assert (taken, ranges.allocate(1)) == ([0, 256, 512, 768], None)
    ranges.free(0, 256)
    ranges.free(512, 256)
    assert (ranges.free_bytes, ranges.allocate(257)) == (512, None)
    ranges.free(256, 256)
    assert ranges.allocate(768) == 0


@given(st.lists(st.integers(1, 300), max_size=20))
def test_allocations_never_overlap_and_all_of_them_can_be_freed(sizes: list[int]) -> None:
    ranges = FreeRanges(SIZE_BYTES)
    taken: dict[int, int] = {}
    for size_bytes in sizes:
        start = ranges.allocate(size_bytes)
        if start is None:
            for other in list(taken)[::2]:
                ranges.free(other, taken.pop(other))
            continue
        assert start + size_bytes <= SIZE_BYTES
        assert all(start + size_bytes <= at or at + size <= start for at, size in taken.items())
        taken[start] = size_bytes
    for start, size_bytes in taken.items():
        ranges.free(start, size_bytes)
    assert (ranges.free_bytes, ranges.allocate(SIZE_BYTES)) == (SIZE_BYTES, 0)
