"""Launches: schedules, blocks, guard pages, counters, settings."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike

from mse_grad.tensor import Array
from support.npu.simulator import CHIPS, ROOT, SCHEDULES, KernelError, Simulator, Tensor

COUNT = 10_007
BLOCKS = 4
TILE = 512


def add(
    simulator: Simulator,
    kernels: ctypes.CDLL,
    x: Array,
    y: Array,
    *,
    count: int = COUNT,
    at_end: bool = True,
    kernel: str = "add_float",
) -> Array:
    z = np.full_like(x, np.nan)
    share = -(-count // BLOCKS // TILE) * TILE
    simulator.launch(
        getattr(kernels, kernel),
        [Tensor("x", x, at_end), Tensor("y", y, at_end), Tensor("z", z, at_end)],
        blocks=BLOCKS,
        tiling=struct.pack("qqq", count, share, TILE),
        name=kernel,
    )
    return z


def operands(dtype: DTypeLike = np.float32) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    return rng.standard_normal(COUNT).astype(dtype), rng.standard_normal(COUNT).astype(dtype)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: "-".join(schedule.values()))
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_right_kernel_is_right_under_every_schedule_on_every_chip(
    simulator: Simulator, kernels: ctypes.CDLL, schedule: dict[str, str], chip: str, threads: str
) -> None:
    x, y = operands()
    with simulator.settings(chip=chip, threads=threads, **schedule):
        np.testing.assert_array_equal(add(simulator, kernels, x, y), x + y)


def test_a_kernel_of_half_rounds_as_numpy(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    x, y = operands(np.float16)
    np.testing.assert_array_equal(add(simulator, kernels, x, y, kernel="add_half"), x + y)


def unordered(simulator: Simulator, kernels: ctypes.CDLL, schedule: Mapping[str, str]) -> Array:
    """Returns the output of a kernel whose copy-out does not wait for the write, with every check off."""
    x, y = np.ones(64, np.float32), np.zeros(64, np.float32)
    with simulator.settings(check_order="off", check_poison="off", **schedule):
        simulator.launch(kernels.copy_out_before_vector, [Tensor("x", x), Tensor("y", y)])
    return y


def test_without_order_an_eager_schedule_hides_what_a_lazy_one_shows(
    simulator: Simulator, kernels: ctypes.CDLL
) -> None:
    assert (unordered(simulator, kernels, {"schedule": "eager"}) == 1).all()
    assert np.isnan(unordered(simulator, kernels, {"schedule": "lazy"})).all()


def test_random_schedules_repeat_by_seed(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    def outcome(seed: int) -> bytes:
        return unordered(simulator, kernels, {"schedule": "random", "seed": str(seed)}).tobytes()

    first = [outcome(seed) for seed in range(16)]
    assert first == [outcome(seed) for seed in range(16)]
    assert len(set(first)) == 2, "some seeds copy out before V wrote, some after"


@pytest.mark.parametrize("at_end", [True, False])
def test_a_kernel_within_its_tensors_touches_no_guard_page(
    simulator: Simulator, kernels: ctypes.CDLL, at_end: bool
) -> None:
    x, y = operands()
    with simulator.settings(check_bounds="off"):
        np.testing.assert_array_equal(add(simulator, kernels, x, y, at_end=at_end), x + y)


@pytest.mark.parametrize(
    ("name", "at_end", "where"),
    [
        ("copy_in_past_the_tensor", True, "pipe MTE2, call 1 (DataCopyPad): touched a guard page: byte 256 of x"),
        ("copy_out_past_the_tensor", True, "pipe MTE3, call 1 (DataCopyPad): touched a guard page: byte 256 of y"),
        ("copy_in_before_the_tensor", False, "pipe MTE2, call 1 (DataCopyPad): touched a guard page: byte -4 of x"),
        ("global_get_value_past_the_tensor", True, "(GlobalTensor::GetValue): touched a guard page: byte 256 of x"),
    ],
)
def test_a_guard_page_catches_one_item_too_far_and_names_the_call(
    simulator: Simulator, kernels: ctypes.CDLL, name: str, at_end: bool, where: str
) -> None:
    x, y = np.zeros(64, np.float32), np.zeros(64, np.float32)
    with simulator.settings(check_bounds="off"), pytest.raises(KernelError) as raised:
        simulator.launch(getattr(kernels, name), [Tensor("x", x, at_end), Tensor("y", y, at_end)], name=name)
    assert raised.value.cause == "fault"
    assert f"{name}: block 0, " in raised.value.message
    assert where in raised.value.message


def test_a_pointer_of_the_kernel_that_leaves_the_tensor_ends_the_process_and_is_named(libraries: Path) -> None:
    program = (
        "import ctypes, numpy, sys\n"
        "from pathlib import Path\n"
        "from support.npu.simulator import Simulator, Tensor\n"
        "libraries = Path(sys.argv[1])\n"
        "simulator = Simulator(libraries)\n"
        "simulator.open()\n"
        "kernels = ctypes.CDLL(str(libraries / 'libtest_kernels.so'))\n"
        "x = numpy.zeros(64, numpy.float32)\n"
        "simulator.launch(kernels.raw_pointer_past_the_tensor, [Tensor('x', x), Tensor('y', x.copy())])\n"
    )
    path = os.pathsep.join([str(ROOT / folder) for folder in ("tests", "proto", "client", "server")])
    run = subprocess.run(
        [sys.executable, "-c", program, str(libraries)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "the kernel's own code touched memory that is not there: block 0, pipe S" in run.stderr


def test_counters_are_those_of_the_kernel(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    x, y = operands()
    add(simulator, kernels, x, y)
    launch = simulator.last_launch()
    total, blocks = launch["total"], launch["blocks"]
    tiles = -(-COUNT // TILE)
    assert launch["ok"]
    assert len(blocks) == BLOCKS
    assert total["copy_in"] == {
        "calls": 2 * tiles,
        "bytes": 2 * COUNT * 4,
        "smallest_bytes": COUNT % TILE * 4,
        "largest_bytes": TILE * 4,
    }
    assert total["copy_out"]["bytes"] == COUNT * 4
    assert total["vector"] == {"Add": {"calls": tiles, "elements": COUNT}}
    assert total["tiles"] == tiles
    assert total["ub_bytes"] == 6 * TILE * 4
    assert sum(block["copy_out"]["bytes"] for block in blocks) == COUNT * 4


def test_the_time_line_shows_whether_pipes_overlap(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    # This kernel has two buffers for each queue, but copies in, computes and copies out before it copies in again.
    x, y = operands()
    add(simulator, kernels, x, y)
    cost = simulator.last_launch()["cost"]
    together = cost["copies_in_us"] + cost["vector_us"] + cost["copies_out_us"]
    busiest = max(cost["copies_in_us"], cost["vector_us"], cost["copies_out_us"])
    assert busiest < cost["block_us"] < together
    assert cost["bound"] == "launch"
    assert all(constant["source"] for constant in cost["constants"])


def test_a_failed_launch_says_so_in_its_report(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    with pytest.raises(KernelError):
        simulator.launch(kernels.two_pipes, [Tensor("x", np.zeros(1)), Tensor("y", np.zeros(1))], name="two_pipes")
    launch = simulator.last_launch()
    assert (launch["ok"], launch["cause"]) == (False, "queue")
    assert "two_pipes: block 0" in launch["message"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("chip", "910C", "it must be one of Ascend910B1, Ascend910B2, Ascend910B3, Ascend910B4, Ascend310B1"),
        ("schedule", "slow", "it must be eager, lazy or random"),
        ("seed", "-1", "it must be a number"),
        ("threads", "0", "it must be a number from 1 to 256"),
        ("check_order", "yes", "it must be on or off"),
        ("speed", "1", "there is no setting 'speed'"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(
    simulator: Simulator, name: str, value: str, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        simulator.set(name, value)


def test_the_chip_answers_with_its_name(simulator: Simulator) -> None:
    with simulator.settings(chip="310B1"):
        assert simulator.soc_name == "Ascend310B1"
