"""The real operator on the simulator: its counters, its plans of any size, and the two ways to call it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import FLOAT16, FLOAT32, DType, Reduction
from support.npu.operator_plan import LINE_BYTES, TilingData
from support.npu.simulator import CHIPS, DTYPES, AclError, Simulator
from support.numerics.compute import formula_compute
from support.values import operands

N = 2**24
CORES = {"Ascend910B1": 48, "Ascend910B3": 40, "Ascend910B4": 40, "Ascend310B1": 1}
UB_BYTES = {"Ascend910B1": 196352, "Ascend910B3": 196352, "Ascend910B4": 196352, "Ascend310B1": 253952}
MIN_COPY_BYTES = 16 * 1024


def plan(simulator: Simulator, shape: tuple[int, ...], dtype: DType) -> tuple[int, TilingData]:
    blocks, data = simulator.plan(shape, dtype, tiling_bytes=ctypes.sizeof(TilingData))
    return blocks, TilingData.from_buffer_copy(data)


@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full dout", "scalar dout"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_counters_of_a_large_tensor_on_910b3(simulator: Simulator, dtype: DType, scalar_dout: bool) -> None:
    item, cores = dtype.itemsize_bytes, CORES["Ascend910B3"]
    predict, label, dout = operands((N,), dtype)
    simulator.compute(predict, label, dout[0] if scalar_dout else dout, "mean")
    launch = simulator.last_launch()
    total, blocks = launch["total"], launch["blocks"]
    _, tiling = plan(simulator, (N,), dtype)

    streams = 2 if scalar_dout else 3
    scalar_bytes = cores * item if scalar_dout else 0
    assert total["copy_in"]["bytes"] == streams * N * item + scalar_bytes
    assert total["copy_out"]["bytes"] == N * item
    assert total["scalar_reads"] == 0
    assert len(blocks) == cores

    # The scalar has a queue of its own; the tile of this plan is for a full dout.
    largest = total["copy_out"]["largest_bytes"]
    assert largest >= MIN_COPY_BYTES
    if not scalar_dout:
        assert largest == tiling.tile_elements * item
    shares = [block["copy_out"]["bytes"] for block in blocks]
    tiles = sum(-(-share // largest) for share in shares)
    assert total["tiles"] == tiles
    assert total["copy_out"]["calls"] == tiles
    assert total["copy_in"]["calls"] == streams * tiles + (cores if scalar_dout else 0)
    assert total["unaligned_copies"] == 0
    assert max(shares) - min(shares) <= LINE_BYTES
    assert total["ub_bytes"] <= UB_BYTES["Ascend910B3"]


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full dout", "scalar dout"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_no_flag_is_set_a_second_time_before_its_wait_however_many_tiles_a_block_has(
    simulator: Simulator, dtype: DType, scalar_dout: bool, tiles: int
) -> None:
    with simulator.settings(chip="Ascend310B1"):  # one core
        _, tiling = plan(simulator, (N,), dtype)
        predict, label, dout = operands((tiles * tiling.tile_elements,), dtype)
        if scalar_dout:
            dout = dout[0]
        y = simulator.compute(predict, label, dout, "mean")
        # A tile is a little larger beside a scalar dout.
        assert tiles - 1 <= simulator.last_launch()["total"]["tiles"] <= tiles
    assert y.tobytes() == formula_compute(predict, label, dout, "mean").tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_the_estimate_names_global_memory_as_the_bound_of_a_large_tensor(simulator: Simulator, dtype: DType) -> None:
    predict, label, dout = operands((N,), dtype)
    for chip in CHIPS:
        with simulator.settings(chip=chip):
            simulator.compute(predict, label, dout, "mean")
        cost = simulator.last_launch()["cost"]
        assert cost["bound"] == "global memory", chip
        # Copies in, vector and copies out of successive tiles overlap.
        assert cost["block_us"] < 1.05 * max(cost["copies_in_us"], cost["vector_us"], cost["copies_out_us"])


def test_the_estimate_names_the_launch_as_the_bound_of_a_small_tensor(simulator: Simulator) -> None:
    simulator.compute(*operands((10_000,)), "mean")
    assert simulator.last_launch()["cost"]["bound"] == "launch"


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("shape", [(65536, 65537), (2**31,), (2**31 + 1,), (2**40,), (2**40 + 3,)], ids=str)
def test_plans_past_32_bits_count_every_element(simulator: Simulator, chip: str, shape: tuple[int, ...]) -> None:
    with simulator.settings(chip=chip):
        blocks, tiling = plan(simulator, shape, FLOAT16)
    elements = int(np.prod(shape, dtype=np.int64))
    lines = -(-elements * FLOAT16.itemsize_bytes // LINE_BYTES)
    assert tiling.elements == elements
    assert blocks == tiling.blocks == CORES[chip]
    assert tiling.lines_per_block * blocks + tiling.extra_lines == lines


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_part_gets_the_coefficient_of_the_whole(simulator: Simulator, dtype: DType, reduction: str) -> None:
    predict, label, dout = operands((10_007,), dtype)
    whole = formula_compute(predict, label, dout, reduction)
    begin, end = 1_003, 7_919
    part = simulator.compute_part(predict[begin:end], label[begin:end], dout[begin:end], reduction, numel=predict.size)
    assert part.tobytes() == whole[begin:end].tobytes()


def test_a_part_of_a_tensor_past_32_bits_gets_its_coefficient(simulator: Simulator) -> None:
    predict, label, dout = operands((1000,))
    numel = 2**33 + 1
    y = np.empty_like(predict)
    gradient_into(y, predict, label, dout, c=coefficient(Reduction.MEAN, numel, FLOAT32), dtype=FLOAT32)
    assert simulator.compute_part(predict, label, dout, "mean", numel=numel).tobytes() == y.tobytes()


def test_no_reduction_is_mean(simulator: Simulator) -> None:
    predict, label, dout = operands((100,))
    assert (
        simulator.compute(predict, label, dout, None).tobytes()
        == formula_compute(predict, label, dout, "mean").tobytes()
    )


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3, 65536)], ids=str)
def test_no_elements_give_none(simulator: Simulator, shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.float32)
    assert simulator.compute(empty, empty, 1.0, "mean").shape == shape


def test_an_unknown_reduction_is_refused_with_what_is_allowed(simulator: Simulator) -> None:
    predict, label, dout = operands((8,))
    with pytest.raises(AclError) as raised:
        simulator.compute(predict, label, dout, "max")
    assert (raised.value.call, raised.value.code) == ("aclnnMseLossGradGetWorkspaceSize", 561002)
    assert 'reduction is "max"; it must be "none", "mean" or "sum"' in raised.value.message
