"""Planted mistakes: the simulator finds each one in the real operator and names its cause."""

from __future__ import annotations

import platform
import signal
import struct
from collections.abc import Collection
from pathlib import Path

import pytest

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, DType
from mse_grad_cli.conformance import Line, run_bar
from support.npu.broken_operators import BROKEN_HOSTS, BROKEN_KERNELS, EXPERIMENTAL, SAMPLE, V2, BrokenKernel
from support.npu.probe import Call, Outcome, probe, probe_elements
from support.npu.simulator import SCHEDULES, AclError, Simulator
from support.numerics.compute import formula_compute
from support.values import Operands, operands

VECTOR_CORE_EXCEPTION = 507035
FIRST_PHASE = "aclnnMseLossGradGetWorkspaceSize"
DTYPE = {"float": FLOAT32, "half": FLOAT16, "bfloat16_t": BFLOAT16}
# Several tiles in each of 40 blocks, and a ragged tail.
LENGTH = 1_500_007

# Mistakes that end the launch: the cause, and text of the message.
ENDS_THE_LAUNCH = {
    "no_queue_between_vector_and_copy_out": ("race", "no queue or flag makes one of V and MTE3 wait for the other"),
    "tail_rounded_up_to_512_bytes": ("bounds", "100 bytes past the end of predict"),
    "cast_of_three_tiles": ("bounds", "(Cast): dst has "),
    "copy_out_given_bytes": ("bounds", "src has "),
    "copies_of_whole_blocks_only": ("argument", "DataCopy takes multiples of 32 and drops the rest"),
    "buffers_taken_between_copies": ("flag", "nothing makes V wait until MTE2 has taken the first"),
    "free_tensor_forgotten": ("queue", "AllocTensor finds no free buffer in queue 1 (VECIN, depth 2, 2 x"),
    "freed_before_it_is_read": ("poison", "nobody wrote them since InitBuffer or FreeTensor"),
    "blocks_overlap_by_one_element": ("overlap", "block 1 writes what block 0 writes: 4 bytes"),
    "muls_of_bfloat16": ("unsupported", "Muls of bfloat16_t: Ascend910B3 has no such instruction"),
    "cast_none_to_bfloat16": ("unsupported", "Cast from float to bfloat16_t in rounding mode 0"),
    "one_buffer_where_two_are_claimed": ("queue", "AllocTensor finds no free buffer in queue 0 (VECIN, depth 2, 1 x"),
    "two_tiles_in_a_queue_of_depth_one": ("queue", "EnQue number 2 in a row on queue 0 (VECIN, depth 1, 2 x"),
    "two_buffers_where_the_configuration_says_one": ("argument", "InitBuffer of 2 buffers; TQueConfig says 1"),
    "scalar_read_without_a_flag": ("race", "no queue or flag makes one of V and S wait for the other"),
    "no_barrier_between_vector_calls": ("race", "no PipeBarrier<PIPE_V> lies between them"),
}
# Mistakes that give wrong numbers: lines of the bar that fail.
FAILS_THE_BAR = {
    "elements_rounded_to_half": {Line.HALF_BITS, Line.FALSE_ZEROS},
    "one_element_short": {Line.BITS},
}
# Mistakes that only cost time: seen in the counters.
SHOWS_IN_COUNTERS = {"no_double_buffering", "blocks_begin_anywhere", "scalar_dout_behind_the_first_tile"}
SCALAR_DOUT = {"scalar_read_without_a_flag", "scalar_dout_behind_the_first_tile"}


def kernels_named(names: Collection[str]) -> list[BrokenKernel]:
    return [broken for broken in BROKEN_KERNELS if broken.name in names]


def operands_of(broken: BrokenKernel, dtype: DType) -> Operands:
    predict, label, dout = operands((LENGTH,), dtype, seed=3)
    return predict, label, dout[0] if broken.name in SCALAR_DOUT else dout


def library(libraries: Path, broken: BrokenKernel) -> Path:
    return libraries / "broken" / broken.name / "libkernel.so"


def test_every_broken_operator_is_tested() -> None:
    assert {broken.name for broken in BROKEN_KERNELS} == {*ENDS_THE_LAUNCH, *FAILS_THE_BAR, *SHOWS_IN_COUNTERS}
    for origin in (SAMPLE, V2, EXPERIMENTAL):
        assert sum(origin in broken.origin for broken in (*BROKEN_KERNELS, *BROKEN_HOSTS)) >= 2


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: "-".join(schedule.values()))
@pytest.mark.parametrize("broken", kernels_named(ENDS_THE_LAUNCH), ids=lambda broken: broken.name)
def test_a_broken_kernel_ends_its_launch_under_every_schedule(
    simulator: Simulator, libraries: Path, schedule: dict[str, str], broken: BrokenKernel
) -> None:
    dtype = DTYPE[broken.dtype]
    predict, label, dout = operands_of(broken, dtype)
    with (
        simulator.settings(**schedule),
        simulator.kernel_replaced(library(libraries, broken), dtype),
        pytest.raises(AclError) as raised,
    ):
        simulator.compute(predict, label, dout, "mean")
    cause, text = ENDS_THE_LAUNCH[broken.name]
    assert (raised.value.call, raised.value.code) == ("aclrtSynchronizeStream", VECTOR_CORE_EXCEPTION)
    assert raised.value.message.startswith(f"{cause}: mse_loss_grad: block "), raised.value.message
    assert text in raised.value.message


def test_one_byte_too_far_faults_at_the_guard_page_without_the_check_of_bounds(
    simulator: Simulator, libraries: Path
) -> None:
    broken = next(broken for broken in BROKEN_KERNELS if broken.name == "tail_rounded_up_to_512_bytes")
    predict, label, dout = operands((LENGTH,), seed=3)
    with (
        simulator.settings(check_bounds="off"),
        simulator.kernel_replaced(library(libraries, broken), FLOAT32),
        pytest.raises(AclError, match=r"fault: mse_loss_grad: block 39, pipe MTE2, call \d+ \(DataCopyPad\)") as raised,
    ):
        simulator.compute(predict, label, dout, "mean")
    assert f"byte {LENGTH * 4} of predict" in raised.value.message


@pytest.mark.parametrize("broken", kernels_named(FAILS_THE_BAR), ids=lambda broken: broken.name)
def test_a_kernel_with_wrong_numbers_fails_the_bar(simulator: Simulator, libraries: Path, broken: BrokenKernel) -> None:
    dtype = DTYPE[broken.dtype]
    with simulator.kernel_replaced(library(libraries, broken), dtype):
        report = run_bar(simulator.compute, dtypes=[dtype], threads=1, quick=True)
    assert {row.line for row in report.failures} >= FAILS_THE_BAR[broken.name], report


@pytest.mark.parametrize("broken", kernels_named(SHOWS_IN_COUNTERS), ids=lambda broken: broken.name)
def test_a_slow_kernel_shows_in_the_counters(simulator: Simulator, libraries: Path, broken: BrokenKernel) -> None:
    dtype = DTYPE[broken.dtype]
    predict, label, dout = operands_of(broken, dtype)
    simulator.compute(predict, label, dout, "mean")
    real = simulator.last_launch()
    with simulator.kernel_replaced(library(libraries, broken), dtype):
        y = simulator.compute(predict, label, dout, "mean")
    slow = simulator.last_launch()
    assert y.tobytes() == formula_compute(predict, label, dout, "mean").tobytes()
    assert real["total"]["unaligned_copies"] == 0
    if broken.name == "blocks_begin_anywhere":
        assert slow["total"]["unaligned_copies"] > slow["total"]["copy_out"]["calls"]
    elif broken.name == "scalar_dout_behind_the_first_tile":
        assert slow["cost"]["block_us"] > real["cost"]["block_us"]
    else:
        # Copies in alone set the pace of the real kernel; they wait for the vector unit in the broken one.
        assert real["cost"]["block_us"] < 1.05 * real["cost"]["copies_in_us"]
        assert slow["cost"]["block_us"] > 1.1 * slow["cost"]["copies_in_us"]


def host(libraries: Path, name: str, call: Call) -> Outcome:
    assert name in {broken.name for broken in BROKEN_HOSTS}
    return probe(libraries, libraries / "broken" / name, call)


@pytest.mark.parametrize(
    ("name", "call", "function", "code", "text"),
    [
        (
            "ub_of_196608_bytes",
            Call((LENGTH,)),
            "aclrtSynchronizeStream",
            VECTOR_CORE_EXCEPTION,
            "together more than the 196352 of UB that Ascend910B3 has",
        ),
        (
            "no_shape_check",
            Call((LENGTH,), label_shape=(LENGTH - 1,)),
            "aclrtSynchronizeStream",
            VECTOR_CORE_EXCEPTION,
            "4 bytes past the end of label",
        ),
        ("no_elements_refused", Call((0, 3)), FIRST_PHASE, 561002, "tiling failed"),
        (
            "no_bfloat16",
            Call((8,), "bfloat16"),
            "aclnnMseLossGradGetWorkspaceSize",
            161002,
            "does not support the dtypes",
        ),
        (
            "no_infer_data_type",
            Call((8,)),
            "aclnnMseLossGradGetWorkspaceSize",
            561001,
            "InferDataType is missing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_broken_host_side_is_refused_or_ends_the_launch(
    libraries: Path, name: str, call: Call, function: str, code: int, text: str
) -> None:
    outcome = host(libraries, name, call)
    assert outcome.error is not None
    assert outcome.error[:2] == (function, code), outcome.error
    assert text in outcome.error[2]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("elements_in_float", Call((4097, 4097), "float16")),
        ("unknown_reduction_is_sum", Call((7,), reduction="max")),
        ("numel_of_the_part", Call((1000,), numel=3000)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_host_side_with_wrong_numbers_is_found_out(libraries: Path, name: str, call: Call) -> None:
    if name == "unknown_reduction_is_sum":
        real = probe(libraries, libraries, call)
        assert real.error is not None
        assert 'reduction is "max"; it must be "none", "mean" or "sum"' in real.error[2]
        outcome = host(libraries, name, call)
        assert outcome.error is None
        return
    assert probe(libraries, libraries, call).unequal == 0
    assert host(libraries, name, call).unequal > 0


def divides_by_zero(outcome: Outcome) -> bool:
    """Returns whether x86 trapped, or a sanitizer reported it before."""
    return outcome.exit_code == -signal.SIGFPE or "division by zero" in outcome.stderr


def test_no_block_for_few_elements_divides_by_zero(libraries: Path) -> None:
    assert probe(libraries, libraries, Call((7,))).unequal == 0
    outcome = host(libraries, "no_block_for_few_elements", Call((7,)))
    assert divides_by_zero(outcome) or outcome.unequal == 7, "aarch64 goes on with 0 and computes nothing"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 traps a division by zero")
def test_no_elements_divide_by_zero_without_a_guard(libraries: Path) -> None:
    assert probe(libraries, libraries, Call((0,))).error is None
    assert divides_by_zero(host(libraries, "no_elements_divide_by_zero", Call((0,))))


def test_cores_left_idle_show_in_the_counters(libraries: Path) -> None:
    outcome = host(libraries, "always_one_core", Call((2**20,)))
    assert (outcome.error, outcome.unequal) == (None, 0)
    assert outcome.launch is not None
    assert len(outcome.launch["blocks"]) == 1


def test_a_last_block_with_the_remainder_alone_shows_in_the_counters(libraries: Path) -> None:
    def spread(outcome: Outcome) -> int:
        assert outcome.launch is not None
        written = [block["copy_out"]["bytes"] for block in outcome.launch["blocks"]]
        return int(max(written) - min(written))

    call = Call((2**20,))
    assert spread(probe(libraries, libraries, call)) <= 512
    assert spread(host(libraries, "last_block_gets_the_remainder", call)) > 512


def test_elements_in_32_bits_lose_most_of_a_large_tensor(simulator: Simulator, libraries: Path) -> None:
    shape = (65536, 65537)
    _, tiling = simulator.plan(shape, FLOAT16, tiling_bytes=8)
    assert struct.unpack("q", tiling) == (65536 * 65537,)
    assert probe_elements(libraries, libraries / "broken" / "elements_in_32_bits", shape) == 65536
