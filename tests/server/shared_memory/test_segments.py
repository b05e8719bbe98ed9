from __future__ import annotations

import asyncio
import fcntl
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.codec import SharedRange
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import DTYPES, FLOAT16, FLOAT32, FLOAT64, DType
from mse_grad_server.errors import SharedMemoryFull, SharedMemoryUnusable
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.settings.model import Settings
from mse_grad_server.shared_memory.segments import Budget, Segments
from mse_grad_server.shared_memory.socket import SharedMemoryLimits
from support.messages import changed
from support.same_host.handover import SEALS, SharedBytes, memfd
from support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

MIB = 2**20
PAGE_BYTES = 4096
# Four float32 elements each, 64 bytes apart.
RANGE = SharedRange(4, 1, 0, 1, 64, 1, 128, 1, 192)


class Mapped:
    """Budget and segments of a server, with its metrics."""

    def __init__(self, **settings: int) -> None:
        self.limits = SharedMemoryLimits.of(Settings(**settings))  # type: ignore[arg-type]
        self.metrics = Metrics()
        self.budget = Budget(self.metrics, most_bytes=self.limits.total_bytes)
        self.segments = self.stream()

    def stream(self) -> Segments:
        return Segments(self.budget, most_bytes=self.limits.stream_bytes)

    @property
    def counted(self) -> tuple[float, float]:
        """The number of segments and of bytes in the metrics."""
        value = self.metrics.registry.get_sample_value
        return value("mse_grad_shared_memory_segments") or 0.0, value("mse_grad_shared_memory_bytes") or 0.0


async def test_ranges_are_the_memory_itself_and_operands_are_read_only() -> None:
    mapped = Mapped()
    with SharedBytes(PAGE_BYTES) as memory:
        mapped.segments.add([1], [memory.descriptor])
        memory.put(64, np.arange(4, dtype=np.float32))
        predict, label, dout, y = mapped.segments.operands(RANGE, FLOAT32, scalar_dout=False)
        assert label.tolist() == [0, 1, 2, 3]
        assert dout is not None
        assert [array.flags.writeable for array in (predict, label, dout, y)] == [False, False, False, True]
        y[...] = 7
        assert memory.get(192, 4, np.dtype(np.float32)).tolist() == [7, 7, 7, 7]


async def test_a_scalar_dout_has_no_range() -> None:
    mapped = Mapped()
    with memfd(PAGE_BYTES) as descriptor:
        mapped.segments.add([1], [descriptor])
        shared = changed(RANGE, dout_segment=0, dout_offset=0)
        assert mapped.segments.operands(shared, FLOAT32, scalar_dout=True).dout is None


BAD_RANGES = {
    "unknown segment": (changed(RANGE, predict_segment=2), Reason.SEGMENT_UNKNOWN, "shared.predict_segment"),
    "segment 0": (changed(RANGE, y_segment=0), Reason.SEGMENT_UNKNOWN, "shared.y_segment"),
    "no dout": (changed(RANGE, dout_segment=0), Reason.SEGMENT_UNKNOWN, "shared.dout_segment"),
    "largest segment": (changed(RANGE, label_segment=2**64 - 1), Reason.SEGMENT_UNKNOWN, "shared.label_segment"),
    "before the start": (changed(RANGE, predict_offset=-16), Reason.SHARED_RANGE_INVALID, "shared.predict_offset"),
    "past the end": (changed(RANGE, y_offset=PAGE_BYTES - 12), Reason.SHARED_RANGE_INVALID, "shared.y_offset"),
    "at the end": (changed(RANGE, dout_offset=PAGE_BYTES), Reason.SHARED_RANGE_INVALID, "shared.dout_offset"),
    "offset that overflows": (
        changed(RANGE, label_offset=2**63 - 4),
        Reason.SHARED_RANGE_INVALID,
        "shared.label_offset",
    ),
    "count that overflows": (changed(RANGE, elements=2**62), Reason.SHARED_RANGE_INVALID, "shared.predict_offset"),
    "not aligned": (changed(RANGE, predict_offset=2), Reason.SHARED_RANGE_INVALID, "shared.predict_offset"),
    "y is predict": (changed(RANGE, y_offset=0), Reason.SHARED_RANGE_INVALID, "shared.y_offset"),
    "y overlaps label": (changed(RANGE, y_offset=76), Reason.SHARED_RANGE_INVALID, "shared.y_offset"),
    "y overlaps dout": (changed(RANGE, y_offset=116), Reason.SHARED_RANGE_INVALID, "shared.y_offset"),
}


@pytest.mark.parametrize(("shared", "reason", "field"), BAD_RANGES.values(), ids=BAD_RANGES)
async def test_a_range_that_is_not_valid_is_refused(shared: SharedRange, reason: Reason, field: str) -> None:
    mapped = Mapped()
    with memfd(PAGE_BYTES) as descriptor:
        mapped.segments.add([1], [descriptor])
        with pytest.raises(ContractError) as refused:
            mapped.segments.operands(shared, FLOAT32, scalar_dout=False)
        assert (refused.value.reason, refused.value.field) == (reason, field)


numbers = st.integers(-20, 300) | st.integers(-(2**63), 2**63 - 1) | st.integers(PAGE_BYTES - 40, PAGE_BYTES + 8)
ranges = st.builds(SharedRange, *([numbers, *[st.integers(0, 3), numbers] * 4]))


@given(st.lists(ranges, min_size=1, max_size=20), st.sampled_from(DTYPES), st.booleans())
def test_any_range_is_refused_or_lies_within_its_segment(
    several: list[SharedRange], dtype: DType, scalar_dout: bool
) -> None:
    async def look() -> None:
        mapped = Mapped()
        with SharedBytes(PAGE_BYTES) as one, SharedBytes(PAGE_BYTES // 2 + 1) as two:
            mapped.segments.add([1, 2], [one.descriptor, two.descriptor])
            for shared in several:
                shared.elements = max(1, shared.elements)  # another check refuses fewer elements
                try:
                    found = mapped.segments.operands(shared, dtype, scalar_dout=scalar_dout)
                except ContractError:
                    continue
                found.y[...] = 1  # a write outside of the segment would be a fault
                assert all(array is None or array.size == shared.elements for array in found)
                assert all(not np.may_share_memory(found.y, array) for array in found[:3] if array is not None)

    asyncio.run(look())


@pytest.mark.parametrize("dtype", [FLOAT16, FLOAT32, FLOAT64], ids=lambda dtype: dtype.name)
async def test_the_last_element_of_a_segment_may_be_used(dtype: DType) -> None:
    mapped = Mapped()
    with memfd(PAGE_BYTES) as descriptor:
        mapped.segments.add([1], [descriptor])
        size = dtype.itemsize_bytes
        shared = SharedRange(1, 1, 0, 1, size, 1, 2 * size, 1, PAGE_BYTES - size)
        assert mapped.segments.operands(shared, dtype, scalar_dout=False).y.size == 1


async def test_y_in_read_only_memory_is_refused() -> None:
    mapped = Mapped()
    with memfd(PAGE_BYTES, seals=SEALS | fcntl.F_SEAL_WRITE) as sealed, memfd(PAGE_BYTES) as descriptor:
        mapped.segments.add([1, 2], [sealed, descriptor])
        with pytest.raises(ContractError, match="sealed against writing") as refused:
            mapped.segments.operands(RANGE, FLOAT32, scalar_dout=False)
        assert refused.value.reason is Reason.SHARED_RANGE_INVALID
        mapped.segments.operands(changed(RANGE, y_segment=2), FLOAT32, scalar_dout=False)


@pytest.mark.parametrize("numbers", [[0], [1, 1], [1, 2, 3], [1]], ids=str)
async def test_each_descriptor_needs_a_new_number(numbers: list[int]) -> None:
    mapped = Mapped()
    with memfd(PAGE_BYTES) as one, memfd(PAGE_BYTES) as other:
        with pytest.raises(SharedMemoryUnusable):
            mapped.segments.add(numbers, [one, other][: 1 if numbers == [0] else 2])
        assert len(mapped.segments) == 0
        mapped.segments.add([1], [one])
        with pytest.raises(SharedMemoryUnusable, match="segment 1 is taken"):
            mapped.segments.add([1], [other])


async def test_the_same_memory_under_two_numbers_is_refused() -> None:
    mapped = Mapped()
    with memfd(PAGE_BYTES) as descriptor:
        mapped.segments.add([1], [descriptor])
        with pytest.raises(SharedMemoryUnusable, match="is the memory of segment 1"):
            mapped.segments.add([2], [descriptor])


async def test_a_stream_has_a_bound_and_a_refusal_maps_nothing() -> None:
    mapped = Mapped(shared_memory_stream_bytes=2 * MIB)
    with memfd(MIB) as one, memfd(MIB) as two, memfd(PAGE_BYTES) as three:
        with pytest.raises(SharedMemoryFull) as refused:
            mapped.segments.add([1, 2, 3], [one, two, three])
        assert refused.value.reason is Reason.SHARED_MEMORY_FULL
        assert "2MiB" in str(refused.value)
        del refused  # the error's traceback refers to the segments that were mapped before
        await until(lambda: mapped.counted == (0, 0))
        mapped.segments.add([1, 2], [one, two])
        assert mapped.counted == (2, 2 * MIB)
        mapped.stream().add([1], [three])


async def test_all_streams_together_have_a_bound() -> None:
    mapped = Mapped(shared_memory_bytes=2 * MIB)
    with memfd(MIB) as one, memfd(MIB) as two, memfd(PAGE_BYTES) as three:
        mapped.segments.add([1], [one])
        other = mapped.stream()
        other.add([1], [two])
        with pytest.raises(SharedMemoryFull, match="2MiB"):
            mapped.segments.add([2], [three])
        other.withdraw([1])
        mapped.segments.add([2], [three])


async def test_a_stream_has_a_bound_on_segments() -> None:
    mapped = Mapped()
    made = [SharedBytes(PAGE_BYTES) for _ in range(65)]
    try:
        descriptors = [memory.descriptor for memory in made]
        mapped.segments.add(range(1, 65), descriptors[:64])
        with pytest.raises(SharedMemoryFull, match="at most 64"):
            mapped.segments.add([65], descriptors[64:])
    finally:
        for memory in made:
            memory.__exit__()


async def test_a_withdrawn_segment_is_unknown_and_unmapped() -> None:
    mapped = Mapped()
    with memfd(PAGE_BYTES) as one, memfd(PAGE_BYTES) as two:
        mapped.segments.add([1, 2], [one, two])
        mapped.segments.withdraw([1])
        await until(lambda: mapped.counted == (1, PAGE_BYTES))
        with pytest.raises(ContractError, match="segment 1"):
            mapped.segments.operands(RANGE, FLOAT32, scalar_dout=False)
        with pytest.raises(ContractError) as refused:
            mapped.segments.withdraw([1])
        assert refused.value.reason is Reason.SEGMENT_UNKNOWN


async def test_a_mapping_stays_while_a_computation_uses_it() -> None:
    mapped = Mapped()
    with SharedBytes(PAGE_BYTES) as memory:
        mapped.segments.add([1], [memory.descriptor])
        operands = mapped.segments.operands(RANGE, FLOAT32, scalar_dout=False)
        mapped.segments.close()
        await asyncio.sleep(0)
        assert mapped.counted == (1, PAGE_BYTES)
        operands.y[...] = 5
        assert memory.get(192, 4, np.dtype(np.float32)).tolist() == [5, 5, 5, 5]
        del operands
        await until(lambda: mapped.counted == (0, 0))


async def test_a_stream_that_ends_maps_nothing_further() -> None:
    """Nothing would withdraw it: the connection stays open while a computation uses earlier memory."""
    mapped = Mapped()
    with memfd(PAGE_BYTES) as descriptor, memfd(PAGE_BYTES) as late:
        mapped.segments.add([1], [descriptor])
        mapped.segments.close()
        with pytest.raises(SharedMemoryUnusable, match="takes no more segments"):
            mapped.segments.add([2], [late])
        assert len(mapped.segments) == 0
        await until(lambda: mapped.counted == (0, 0))
