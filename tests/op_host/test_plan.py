"""Properties of the plan: blocks, ranges, tiles and the coefficient."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mse_grad.formula import coefficient
from mse_grad.tensor import FLOAT32, Reduction
from support.npu.operator_plan import LINE_BYTES, OperatorHost, Plan, Refusal, TilingData

KIB = 1 << 10
MIB = 1 << 20
UB_BYTES = {"910B": 196352, "310B": 253952}  # UB sizes as the platform reports them
MAX_RUN_BYTES = 2097151  # DataCopyExtParams.blockLen


@dataclass(frozen=True)
class Launch:
    elements: int
    item_bytes: int
    scalar_dout: bool
    cores: int
    ub_bytes: int

    def plan(self, host: OperatorHost) -> Plan:
        return host.plan(
            self.elements,
            item_bytes=self.item_bytes,
            scalar_dout=self.scalar_dout,
            cores=self.cores,
            ub_bytes=self.ub_bytes,
        )

    @property
    def stream_bytes(self) -> int:
        return self.elements * self.item_bytes

    @property
    def input_bytes(self) -> int:
        return (2 if self.scalar_dout else 3) * self.stream_bytes


def _element_counts() -> st.SearchStrategy[int]:
    """Element counts from 1 to 2^41, half of them near the sizes at which the plan changes."""
    edge = st.sampled_from([256, 4096, 6016, 8192, 65536, MIB, 2**24, 2**31, 2**32, 2**40])
    near = st.builds(lambda base, shift: base + shift, edge, st.integers(-257, 257))
    return st.one_of(st.integers(1, 4096), near.filter(lambda count: count >= 1), st.integers(1, 2**41))


LAUNCHES = st.builds(
    Launch,
    elements=_element_counts(),
    item_bytes=st.sampled_from([2, 4]),
    scalar_dout=st.booleans(),
    cores=st.integers(1, 48),
    ub_bytes=st.one_of(st.sampled_from(sorted(UB_BYTES.values())), st.integers(192 * KIB - 4096, MIB)),
)
TIGHTEST = Launch(elements=2**24, item_bytes=2, scalar_dout=False, cores=40, ub_bytes=UB_BYTES["910B"])


@given(launch=LAUNCHES)
@example(launch=TIGHTEST)
def test_ranges_cover_each_element_exactly_once(host: OperatorHost, launch: Launch) -> None:
    ranges = launch.plan(host).ranges
    assert ranges[0][0] == 0
    assert ranges[-1][1] == launch.elements
    assert all(end == begin for (_, end), (begin, _) in pairwise(ranges))
    assert all(begin < end for begin, end in ranges)


@given(launch=LAUNCHES)
def test_ranges_start_on_whole_lines(host: OperatorHost, launch: Launch) -> None:
    assert all(begin * launch.item_bytes % LINE_BYTES == 0 for begin, _ in launch.plan(host).ranges)


@given(launch=LAUNCHES)
def test_ranges_differ_by_at_most_one_line(host: OperatorHost, launch: Launch) -> None:
    lines = [-((begin - end) * launch.item_bytes // LINE_BYTES) for begin, end in launch.plan(host).ranges]
    assert max(lines) - min(lines) <= 1


@given(launch=LAUNCHES)
@example(launch=TIGHTEST)
def test_buffers_fit_ub(host: OperatorHost, launch: Launch) -> None:
    assert ub_use_bytes(launch, launch.plan(host)) <= launch.ub_bytes


@given(launch=LAUNCHES)
@example(launch=TIGHTEST)
def test_buffers_fit_ub_to_the_byte(host: OperatorHost, launch: Launch) -> None:
    used_bytes = ub_use_bytes(launch, launch.plan(host))
    exact = replace(launch, ub_bytes=used_bytes)
    assert ub_use_bytes(exact, exact.plan(host)) == used_bytes
    short = replace(launch, ub_bytes=used_bytes - 1)
    try:
        plan = short.plan(host)
    except Refusal:
        assert short.ub_bytes < min(UB_BYTES.values())
    else:
        assert ub_use_bytes(short, plan) < used_bytes


@given(launch=LAUNCHES)
@example(launch=TIGHTEST)
def test_full_tile_is_a_copy_of_16_kib_that_datacopypad_accepts(host: OperatorHost, launch: Launch) -> None:
    tile_bytes = launch.plan(host).tile_elements * launch.item_bytes
    assert 16 * KIB <= tile_bytes <= MAX_RUN_BYTES
    assert tile_bytes % LINE_BYTES == 0


@given(launch=LAUNCHES)
def test_parts_make_up_the_tile_and_start_where_ub_is_aligned(host: OperatorHost, launch: Launch) -> None:
    plan = launch.plan(host)
    assert plan.tile_elements % plan.part_elements == 0
    assert plan.part_elements * launch.item_bytes % LINE_BYTES == 0


@given(launch=LAUNCHES)
@example(launch=Launch(6016, 4, scalar_dout=False, cores=1, ub_bytes=UB_BYTES["910B"]))  # one tile
@example(launch=Launch(6017, 4, scalar_dout=False, cores=1, ub_bytes=UB_BYTES["910B"]))
def test_streams_have_two_buffers_if_a_block_has_a_second_tile(host: OperatorHost, launch: Launch) -> None:
    plan = launch.plan(host)
    tiles = max(-(-(end - begin) // plan.tile_elements) for begin, end in plan.ranges)
    assert plan.buffers == min(tiles, 2)


@given(launch=LAUNCHES)
def test_all_cores_work_from_2_mib_of_input_on(host: OperatorHost, launch: Launch) -> None:
    blocks = len(launch.plan(host).ranges)
    assert blocks <= launch.cores
    if launch.input_bytes >= 2 * MIB:
        assert blocks == launch.cores


@given(launch=LAUNCHES)
def test_no_core_starts_for_less_than_8_kib_unless_it_is_the_only_one(host: OperatorHost, launch: Launch) -> None:
    ranges = launch.plan(host).ranges
    smallest_lines = min(-((begin - end) * launch.item_bytes // LINE_BYTES) for begin, end in ranges)
    assert len(ranges) == 1 or smallest_lines * LINE_BYTES >= 8 * KIB


@pytest.mark.parametrize("scalar_dout", [False, True])
@pytest.mark.parametrize("item_bytes", [2, 4])
@pytest.mark.parametrize("chip", sorted(UB_BYTES))
def test_no_further_line_of_a_tile_would_fit_ub(
    host: OperatorHost, chip: str, item_bytes: int, scalar_dout: bool
) -> None:
    launch = Launch(2**24, item_bytes, scalar_dout, cores=1, ub_bytes=UB_BYTES[chip])
    plan = launch.plan(host)
    line_elements = LINE_BYTES // item_bytes
    parts = plan.tile_elements // plan.part_elements
    larger = replace(
        plan,
        tile_elements=plan.tile_elements + parts * line_elements,
        part_elements=plan.part_elements + line_elements,
    )
    assert ub_use_bytes(launch, larger) > launch.ub_bytes


def test_float_scratch_is_smaller_than_the_tile_if_both_would_not_fit(host: OperatorHost) -> None:
    plan = TIGHTEST.plan(host)
    assert plan.part_elements == plan.tile_elements // 2


def test_3_million_float16_elements_are_shared_by_40_cores_in_lines(host: OperatorHost) -> None:
    plan = host.plan(3_000_000, item_bytes=2, cores=40, ub_bytes=UB_BYTES["910B"])
    assert len(plan.ranges) == 40
    assert plan.ranges[0] == (0, 293 * 256)
    assert plan.ranges[-1] == (3_000_000 - 292 * 256 + 64, 3_000_000)


@pytest.mark.parametrize("elements", [65536 * 65537, 2**40])
def test_counts_past_32_bits_are_planned_right(host: OperatorHost, elements: int) -> None:
    plan = host.plan(elements, item_bytes=4, cores=48, ub_bytes=UB_BYTES["910B"])
    assert plan.ranges[-1][1] == elements
    assert sum(end - begin for begin, end in plan.ranges) == elements
    assert plan.coefficient == np.float32(2.0 / elements)


@pytest.mark.parametrize("reduction", [Reduction.NONE, Reduction.MEAN, Reduction.SUM])
def test_no_elements_are_no_blocks_and_no_division(host: OperatorHost, reduction: Reduction) -> None:
    plan = host.plan(0, item_bytes=2, cores=40, ub_bytes=UB_BYTES["910B"], reduction=reduction)
    assert plan.ranges == ()


def test_no_elements_need_neither_ub_nor_a_larger_whole(host: OperatorHost) -> None:
    assert host.plan(0, item_bytes=4, cores=1, ub_bytes=0, numel=0).ranges == ()
    assert host.plan(0, item_bytes=4, cores=1, ub_bytes=0, numel=7).ranges == ()


@given(elements=_element_counts(), more=st.integers(0, 2**62), reduction=st.sampled_from(Reduction))
def test_coefficient_is_that_of_the_formula_for_the_whole(
    host: OperatorHost, elements: int, more: int, reduction: Reduction
) -> None:
    numel = elements + more
    plan = host.plan(elements, item_bytes=4, cores=40, ub_bytes=UB_BYTES["910B"], reduction=reduction, numel=numel)
    assert plan.coefficient == coefficient(reduction, numel, FLOAT32)


def test_coefficient_is_divided_in_double_and_rounded_once(host: OperatorHost) -> None:
    for numel in range(2**24 + 1, 2**24 + 200):
        plan = host.plan(1, item_bytes=4, cores=1, ub_bytes=UB_BYTES["910B"], numel=numel)
        assert plan.coefficient == np.float32(np.float64(2.0) / np.float64(numel))


def test_numel_below_one_is_refused(host: OperatorHost) -> None:
    with pytest.raises(Refusal, match=r"^numel is 0; it must be at least 1$"):
        host.plan(32, item_bytes=4, cores=1, ub_bytes=UB_BYTES["910B"], numel=0)


def test_negative_element_count_is_refused(host: OperatorHost) -> None:
    with pytest.raises(Refusal, match=r"^predict has -1 elements; it must have 0 to 2305843009213693951$"):
        host.plan(-1, item_bytes=4, cores=1, ub_bytes=UB_BYTES["910B"])


def test_more_bytes_than_64_bits_count_are_refused(host: OperatorHost) -> None:
    with pytest.raises(Refusal, match=f"^predict has {2**62} elements; it must have 0 to {2**62 - 1}$"):
        host.plan(2**62, item_bytes=2, cores=1, ub_bytes=UB_BYTES["910B"])


@pytest.mark.parametrize("item_bytes", [1, 8])
def test_item_size_of_no_dtype_is_refused(host: OperatorHost, item_bytes: int) -> None:
    with pytest.raises(Refusal, match=f"^items have {item_bytes} bytes; they must have 2 or 4$"):
        host.plan(0, item_bytes=item_bytes, cores=1, ub_bytes=UB_BYTES["910B"])


def test_platform_without_vector_cores_is_refused(host: OperatorHost) -> None:
    with pytest.raises(Refusal, match=r"^the platform reports no vector core; at least one is needed$"):
        host.plan(1, item_bytes=4, cores=0, ub_bytes=UB_BYTES["910B"])


@given(item_bytes=st.sampled_from([2, 4]), scalar_dout=st.booleans(), ub_bytes=st.integers(0, 3 * 2 * 16 * KIB - 1))
def test_ub_without_room_for_16_kib_copies_is_refused(
    host: OperatorHost, item_bytes: int, scalar_dout: bool, ub_bytes: int
) -> None:
    with pytest.raises(Refusal, match=f"^UB has {ub_bytes} bytes; too few for [68] buffers of 16384 bytes"):
        host.plan(1, item_bytes=item_bytes, scalar_dout=scalar_dout, cores=1, ub_bytes=ub_bytes)


def test_python_reads_the_struct_as_the_compiler_lays_it_out(host: OperatorHost) -> None:
    assert ctypes.sizeof(TilingData) == host.tiling_bytes()


def ub_use_bytes(launch: Launch, plan: Plan) -> int:
    """Returns the most UB that the kernel needs: the sum of its InitBuffer calls if a block has a second tile."""
    tile_bytes = plan.tile_elements * launch.item_bytes
    streams = 3 * 2 * tile_bytes
    dout = 32 if launch.scalar_dout else 2 * tile_bytes
    if launch.item_bytes == 4:
        return streams + dout
    return streams + dout + 2 * 4 * plan.part_elements + (32 if launch.scalar_dout else 0)
