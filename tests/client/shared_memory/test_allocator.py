from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mse_grad.tensor import Array, little_endian_bytes
from mse_grad_client.shared_memory.allocator import Allocator, FreeRanges, Place
from support.same_host.descriptors import few_descriptors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

MIB = 2**20


@pytest.fixture
def allocator() -> Iterator[Allocator]:
    made = Allocator()
    yield made
    made.close()


def find(allocator: Allocator, array: Array) -> Place | None:
    return allocator.find(little_endian_bytes(array))


@pytest.mark.parametrize("shape", [(), 3, (2, 3), [4, 1]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, "float16", ml_dtypes.bfloat16, np.dtype(np.float64)], ids=str)
def test_an_array_is_like_any_other(allocator: Allocator, shape: int | tuple[int, ...], dtype: object) -> None:
    array, ordinary = allocator.empty(shape, dtype), np.empty(shape, dtype)  # type: ignore[call-overload]
    assert (array.shape, array.dtype, array.flags.writeable, array.flags.c_contiguous) == (
        ordinary.shape,
        ordinary.dtype,
        True,
        True,
    )
    array[...] = 1
    assert (np.asarray(array, np.float64) == 1).all()
    assert find(allocator, array) is not None


def built_on_an_older_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (os, fcntl):
        for name in [name for name in dir(module) if "MFD" in name or "memfd" in name or "SEAL" in name]:
            monkeypatch.delattr(module, name)


def test_a_python_that_was_built_on_an_older_system_takes_memory_from_the_c_library(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_on_an_older_system(monkeypatch)
    assert find(allocator, allocator.empty(3, np.float32)) is not None


def test_if_the_c_library_is_too_old_as_well_arrays_are_ordinary(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_on_an_older_system(monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert allocator.empty(3, np.float32).shape == (3,)
    assert allocator.is_empty


def test_a_kernel_that_does_not_know_a_flag_is_asked_without_it(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = os.memfd_create

    def of_an_older_kernel(name: str, flags: int) -> int:
        if flags & 0x8:
            raise OSError(errno.EINVAL, "Invalid argument")
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", of_an_older_kernel)
    assert find(allocator, allocator.empty(3, np.float32)) is not None


def memory_descriptors() -> set[str]:
    """Returns the descriptors of memory without a name; servers of earlier tests may still close others."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile, as the one of the folder itself
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
                found.add(name)
    return found


@pytest.mark.parametrize("spare", [0, 1], ids=["none", "one"])
def test_without_a_free_descriptor_arrays_are_ordinary_and_nothing_leaks(allocator: Allocator, spare: int) -> None:
    held = memory_descriptors()
    with few_descriptors(spare):
        assert allocator.empty(3, np.float32).shape == (3,)
        assert allocator.is_empty
    assert memory_descriptors() == held


def test_until_a_server_on_this_host_is_known_arrays_are_ordinary() -> None:
    allocator = Allocator(is_wanted=False)
    assert find(allocator, allocator.empty(3, np.float32)) is None
    allocator.is_wanted = True
    assert find(allocator, allocator.empty(3, np.float32)) is not None
    allocator.close()


def test_an_array_without_elements_or_of_objects_is_an_ordinary_one(allocator: Allocator) -> None:
    assert allocator.empty((0, 3), np.float32).shape == (0, 3)
    assert allocator.empty(3, object).dtype == object
    assert allocator.is_empty
    allocator.empty(3, np.float32)
    assert not allocator.is_empty


@pytest.mark.parametrize("shape", [-1, (2, -3)], ids=str)
def test_a_shape_that_numpy_refuses_is_refused_likewise(allocator: Allocator, shape: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="negative"):
        allocator.empty(shape, np.float32)


@pytest.mark.parametrize(
    "shape",
    [(10 / 2,), 5.0, (2, 3.0), ("4",), "4", None, (None,), np.float64(4), (-1, -4), (2**70,), (2**40, 2**40)],
    ids=repr,
)
def test_a_shape_that_is_refused_leaves_the_memory_as_it_was(allocator: Allocator, shape: Any) -> None:
    with pytest.raises((TypeError, ValueError, MemoryError)):
        np.empty((2**70,) if shape is None else shape, np.float32)  # NumPy accepts None as ()
    with pytest.raises((TypeError, ValueError, MemoryError)):
        allocator.empty(shape, np.float32)
    array = allocator.empty(1000, np.float32)
    place = find(allocator, array)
    assert place is not None
    assert place.offset == 0
    del array
    gc.collect()
    allocator.settle()
    assert find(allocator, allocator.empty(1000, np.float32)) == place


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (np.int64(5), np.float32),
        ((np.uint8(2), np.int32(3)), np.float32),
        (np.array(3), np.float32),
        (np.array([2, 3]), np.float32),
        (3, np.dtype((np.float32, (2,)))),
        (3, [("x", "f4"), ("y", "f4")]),
        (3, ">f4"),
        (3, None),
        (3, "S0"),
    ],
    ids=repr,
)
def test_every_shape_and_dtype_that_numpy_accepts_is_accepted(allocator: Allocator, shape: Any, dtype: Any) -> None:
    array, ordinary = allocator.empty(shape, dtype), np.empty(shape, dtype)
    assert (array.shape, array.dtype) == (ordinary.shape, ordinary.dtype)
    array[...] = array.copy()


def test_a_part_of_an_array_is_found_at_its_place(allocator: Allocator) -> None:
    array = allocator.empty((4, 8), np.float32)
    whole, row, last = find(allocator, array), find(allocator, array[1]), find(allocator, array.reshape(-1)[31:])
    assert whole is not None
    assert row == Place(whole.segment, whole.offset + 32)
    assert last == Place(whole.segment, whole.offset + 124)


def test_a_copy_and_an_ordinary_array_are_not_found(allocator: Allocator) -> None:
    array = allocator.empty((4, 8), np.float32)
    for other in (array.copy(), array[:, ::2], np.empty((4, 8), np.float32)):
        assert find(allocator, other) is None


def test_an_array_that_another_object_made_of_the_memory_is_found_too(allocator: Allocator) -> None:
    array = allocator.empty((4, 8), np.float32)
    foreign = np.frombuffer(memoryview(array.reshape(-1).view(np.uint8).data)[32:64], np.float32)
    whole, part = find(allocator, array), find(allocator, foreign)
    assert whole is not None
    assert part == Place(whole.segment, whole.offset + 32)


def test_no_two_arrays_overlap(allocator: Allocator) -> None:
    arrays = [allocator.empty(size, np.uint8) for size in (1, 63, 64, 65, 1000)]
    for number, array in enumerate(arrays):
        array[...] = number
    assert [set(array.tolist()) for array in arrays] == [{number} for number in range(5)]


def test_the_memory_of_an_array_is_reused_once_no_view_of_it_is_left(allocator: Allocator) -> None:
    array = allocator.empty(1000, np.float32)
    place, view = find(allocator, array), array[10:20]
    del array
    gc.collect()
    other = allocator.empty(1000, np.float32)
    assert find(allocator, other) != place
    del view
    gc.collect()
    assert find(allocator, allocator.empty(1000, np.float32)) == place


def test_memory_that_another_object_refers_to_is_not_reused(allocator: Allocator) -> None:
    array = allocator.empty(1000, np.float32)
    place, exported = find(allocator, array), array.data
    del array
    gc.collect()
    assert find(allocator, allocator.empty(1000, np.float32)) != place
    exported.release()


def test_more_memory_is_a_further_segment(allocator: Allocator) -> None:
    arrays = [
        allocator.empty(40 * MIB, np.uint8),
        allocator.empty(40 * MIB, np.uint8),
        allocator.empty(100 * MIB, np.uint8),
    ]
    numbers = [place.segment.number for array in arrays if (place := find(allocator, array)) is not None]
    assert numbers == [1, 2, 3]
    assert [segment.size_bytes for segment in allocator.segments] == [64 * MIB, 64 * MIB, 100 * MIB]


def test_of_many_free_segments_only_some_are_kept(allocator: Allocator) -> None:
    arrays = [allocator.empty(200 * MIB, np.uint8) for _ in range(4)]
    assert len(allocator.segments) == 4
    del arrays
    gc.collect()
    allocator.settle()
    assert [segment.size_bytes for segment in allocator.segments] == [200 * MIB, 200 * MIB]


def test_a_withdrawn_segment_gets_no_further_array(allocator: Allocator) -> None:
    array = allocator.empty(1000, np.float32)
    place = find(allocator, array)
    assert place is not None
    allocator.withdraw([place])
    assert find(allocator, array) is None
    other = find(allocator, allocator.empty(1000, np.float32))
    assert other is not None
    assert other.segment is not place.segment
    assert place.segment in allocator.segments, "requests of other threads lie there"
    del array
    gc.collect()
    allocator.settle()
    assert allocator.segments == (other.segment,)


def test_an_interrupt_of_an_allocation_leaves_no_memory_that_is_allocated_twice(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = allocator.empty(1000, np.float32)
    array[...] = 5

    def interrupted(ranges: FreeRanges, size_bytes: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FreeRanges, "allocate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            allocator.empty(1000, np.float32)
    assert find(allocator, array) is None
    allocator.empty(1000, np.float32)[...] = 6
    assert (array == 5).all()


def test_an_interrupt_while_memory_is_freed_fails_no_later_call(
    allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, other = allocator.empty(16, np.float32), allocator.empty(16, np.float32)

    def interrupted(ranges: FreeRanges, start: int, size_bytes: int) -> None:
        ranges._sizes.clear()
        raise KeyboardInterrupt

    del array
    gc.collect()
    with monkeypatch.context() as patched:
        patched.setattr(FreeRanges, "free", interrupted)
        with pytest.raises(KeyboardInterrupt):
            allocator.settle()
    del other
    gc.collect()
    allocator.settle()
    assert find(allocator, allocator.empty(16, np.float32)) is not None


def test_an_array_outlives_the_allocator_and_then_is_an_ordinary_one(allocator: Allocator) -> None:
    array = allocator.empty(1000, np.float32)
    array[...] = 5
    allocator.close()
    assert find(allocator, array) is None
    assert (array == 5).all()
    assert allocator.empty(3, np.float32).shape == (3,)
    assert allocator.is_empty


def test_an_array_that_a_child_process_inherits_is_an_ordinary_one_there(allocator: Allocator) -> None:
    array = allocator.empty(1000, np.float32)
    place = find(allocator, array)
    allocator.reset_after_fork()
    assert find(allocator, array) is None
    fresh = allocator.empty(1000, np.float32)
    fresh_place = find(allocator, fresh)
    assert place is not None
    assert fresh_place is not None
    assert fresh_place.segment is not place.segment


def test_the_memory_has_no_name_in_a_file_system(allocator: Allocator) -> None:
    array = allocator.empty(1000, np.float32)
    array[...] = 1
    assert not [name for name in os.listdir("/dev/shm") if "mse-grad" in name]
