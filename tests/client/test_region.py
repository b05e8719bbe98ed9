from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

from mse_grad.tensor import Array, little_endian_bytes
from mse_grad_client.region import Place, Region

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

MIB = 2**20


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    yield made
    made.close()


def find(region: Region, array: Array) -> Place | None:
    return region.find(little_endian_bytes(array))


@pytest.mark.parametrize("shape", [(), 3, (2, 3), [4, 1]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, "float16", ml_dtypes.bfloat16, np.dtype(np.float64)], ids=str)
def test_an_array_is_like_any_other(region: Region, shape: int | tuple[int, ...], dtype: object) -> None:
    array, ordinary = region.empty(shape, dtype), np.empty(shape, dtype)  # type: ignore[call-overload]
    assert (array.shape, array.dtype, array.flags.writeable, array.flags.c_contiguous) == (
        ordinary.shape,
        ordinary.dtype,
        True,
        True,
    )
    array[...] = 1
    assert (np.asarray(array, np.float64) == 1).all()
    assert find(region, array) is not None


def test_an_array_without_elements_or_of_objects_is_an_ordinary_one(region: Region) -> None:
    assert region.empty((0, 3), np.float32).shape == (0, 3)
    assert region.empty(3, object).dtype == object
    assert region.is_empty
    region.empty(3, np.float32)
    assert not region.is_empty


@pytest.mark.parametrize("shape", [-1, (2, -3)], ids=str)
def test_a_shape_that_numpy_refuses_is_refused_alike(region: Region, shape: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="negative"):
        region.empty(shape, np.float32)


def test_a_part_of_an_array_is_found_where_it_lies(region: Region) -> None:
    array = region.empty((4, 8), np.float32)
    whole, row, last = find(region, array), find(region, array[1]), find(region, array.reshape(-1)[31:])
    assert whole is not None
    assert row == Place(whole.segment, whole.offset + 32)
    assert last == Place(whole.segment, whole.offset + 124)


def test_a_copy_and_an_ordinary_array_are_not_found(region: Region) -> None:
    array = region.empty((4, 8), np.float32)
    for other in (array.copy(), array[:, ::2], np.empty((4, 8), np.float32)):
        assert find(region, other) is None


def test_an_array_that_another_object_made_of_the_memory_is_found_too(region: Region) -> None:
    array = region.empty((4, 8), np.float32)
    foreign = np.frombuffer(memoryview(array.reshape(-1).view(np.uint8).data)[32:64], np.float32)
    whole, part = find(region, array), find(region, foreign)
    assert whole is not None
    assert part == Place(whole.segment, whole.offset + 32)


def test_no_two_arrays_overlap(region: Region) -> None:
    arrays = [region.empty(size, np.uint8) for size in (1, 63, 64, 65, 1000)]
    for number, array in enumerate(arrays):
        array[...] = number
    assert [set(array.tolist()) for array in arrays] == [{number} for number in range(5)]


def test_the_room_of_an_array_is_used_again_once_no_view_of_it_is_left(region: Region) -> None:
    array = region.empty(1000, np.float32)
    place, view = find(region, array), array[10:20]
    del array
    gc.collect()
    other = region.empty(1000, np.float32)
    assert find(region, other) != place
    del view
    gc.collect()
    assert find(region, region.empty(1000, np.float32)) == place


def test_memory_that_another_object_looks_at_is_not_used_again(region: Region) -> None:
    array = region.empty(1000, np.float32)
    place, exported = find(region, array), array.data
    del array
    gc.collect()
    assert find(region, region.empty(1000, np.float32)) != place
    exported.release()


def test_more_room_is_a_further_segment(region: Region) -> None:
    arrays = [region.empty(40 * MIB, np.uint8), region.empty(40 * MIB, np.uint8), region.empty(100 * MIB, np.uint8)]
    numbers = [place.segment.number for array in arrays if (place := find(region, array)) is not None]
    assert numbers == [1, 2, 3]
    assert [segment.size_bytes for segment in region.segments] == [64 * MIB, 64 * MIB, 100 * MIB]


def test_of_many_free_segments_only_some_are_kept(region: Region) -> None:
    arrays = [region.empty(200 * MIB, np.uint8) for _ in range(4)]
    assert len(region.segments) == 4
    del arrays
    gc.collect()
    region.settle()
    assert [segment.size_bytes for segment in region.segments] == [200 * MIB, 200 * MIB]


def test_an_array_outlives_the_region_and_is_an_ordinary_one_then(region: Region) -> None:
    array = region.empty(1000, np.float32)
    array[...] = 5
    region.close()
    assert find(region, array) is None
    assert (array == 5).all()
    assert region.empty(3, np.float32).shape == (3,)
    assert region.is_empty


def test_what_a_child_process_inherits_is_an_ordinary_array_there(region: Region) -> None:
    array = region.empty(1000, np.float32)
    place = find(region, array)
    region.reset_after_fork()
    assert find(region, array) is None
    fresh = region.empty(1000, np.float32)
    fresh_place = find(region, fresh)
    assert place is not None
    assert fresh_place is not None
    assert fresh_place.segment is not place.segment


def test_nothing_of_it_has_a_name(region: Region) -> None:
    array = region.empty(1000, np.float32)
    array[...] = 1
    assert not [name for name in os.listdir("/dev/shm") if "mse-grad" in name]
