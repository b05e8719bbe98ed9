from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mse_grad_client.free_ranges import FreeRanges

SIZE_BYTES = 1024


def test_the_lowest_room_is_taken_first_and_again_when_it_is_back() -> None:
    ranges = FreeRanges(SIZE_BYTES)
    assert [ranges.take(256), ranges.take(256)] == [0, 256]
    ranges.give_back(0, 256)
    assert ranges.take(128) == 0


def test_there_is_no_room_for_more_than_the_longest_free_range() -> None:
    ranges = FreeRanges(SIZE_BYTES)
    taken = [ranges.take(256) for _ in range(4)]
    assert (taken, ranges.take(1)) == ([0, 256, 512, 768], None)
    ranges.give_back(0, 256)
    ranges.give_back(512, 256)
    assert (ranges.free_bytes, ranges.take(257)) == (512, None)
    ranges.give_back(256, 256)
    assert ranges.take(768) == 0


@given(st.lists(st.integers(1, 300), max_size=20))
def test_what_is_taken_never_overlaps_and_all_of_it_comes_back(sizes: list[int]) -> None:
    ranges = FreeRanges(SIZE_BYTES)
    taken: dict[int, int] = {}
    for size_bytes in sizes:
        start = ranges.take(size_bytes)
        if start is None:
            for other in list(taken)[::2]:
                ranges.give_back(other, taken.pop(other))
            continue
        assert start + size_bytes <= SIZE_BYTES
        assert all(start + size_bytes <= at or at + size <= start for at, size in taken.items())
        taken[start] = size_bytes
    for start, size_bytes in taken.items():
        ranges.give_back(start, size_bytes)
    assert (ranges.free_bytes, ranges.take(SIZE_BYTES)) == (SIZE_BYTES, 0)
