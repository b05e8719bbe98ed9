"""Short runs of the fuzz targets in C++, and mistakes that they must find."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from fuzz.cpp.campaign import MOST_MIB, TARGETS, Edit, build, has_libfuzzer, run
from support.tools import refuse, require_program

RUNS = 20_000

WRONG_PLANS = {
    "a block too long": Edit("mse_loss_grad_plan.cpp", "lines % blocks;", "lines % blocks + 1;"),
    "no part of a line": Edit("mse_loss_grad_plan.cpp", "% line_elements != 0 ? 1 : 0", "% line_elements != 0 ? 0 : 0"),
    "one buffer too many": Edit("mse_loss_grad_plan.cpp", "problem.scalar_dout ? 3 : 4", "3"),
    "counts of 32 bits": Edit("mse_loss_grad_plan.cpp", "= lines / blocks;", "= static_cast<int32_t>(lines / blocks);"),
    "no bound on the elements": Edit(
        "mse_loss_grad_plan.cpp", "problem.elements < 0 || problem.elements > max_elements", "problem.elements < 0"
    ),
}
WRONG_KERNELS = {
    "a byte past y": Edit("fused_loop.h", "(call.y + begin, y, size)", "(call.y + begin, y, size + 1)"),
    "no head before streamed stores": Edit("fused_loop.h", "PartOfStep<Format, kScalarDout>(call, 0, head_bytes);", ""),
    "the caller's rounding": Edit("mse_loss_grad_cpu.cpp", "const DefaultEnvironment environment;", ""),
    "a scalar dout without elements": Edit("mse_loss_grad_cpu.cpp", "if (n == 0) {", "if (n == 0 && dout != y) {"),
    "ties of bfloat16 up": Edit("variant_portable.cpp", "0x7fff + ((single >> 16) & 1)", "0x8000"),
}
WRONG_TILINGS = {
    "an unknown extent of label": Edit(
        "mse_loss_grad_tiling.cpp", 'CountElements(tensors.label.shape, "label", &elements, reason) &&', ""
    ),
    "y of any shape": Edit(
        "mse_loss_grad_tiling.cpp", 'CheckSameShape(predict.shape, tensors.y.shape, "y", reason)', "true"
    ),
}
SLOW_MISTAKES = [
    *(("kernel", name) for name in WRONG_KERNELS),
    *(("tiling", name) for name in WRONG_TILINGS),
]
MISTAKES = {"kernel": WRONG_KERNELS, "plan": WRONG_PLANS, "tiling": WRONG_TILINGS}


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A clang++ with libFuzzer; without it the test is skipped, or fails if CI is set."""
    path = require_program("clang++")
    if not has_libfuzzer(path, tmp_path_factory.mktemp("probe")):
        refuse("clang++ has no libFuzzer (libclang-rt-dev)")
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_twenty_thousand_inputs_find_nothing(compiler: str, target: str, tmp_path: Path) -> None:
    result = run(build(target, compiler, tmp_path / "built"), runs=RUNS)
    assert not result.failed, result.output
    assert result.runs == RUNS


def test_memory_that_the_caller_once_held_is_no_finding(compiler: str, tmp_path: Path) -> None:
    held = bytearray(MOST_MIB + 1 << 20)  # zeros take no memory until they are written
    held[:: mmap.PAGESIZE] = b"x" * len(range(0, len(held), mmap.PAGESIZE))
    del held
    result = run(build("plan", compiler, tmp_path / "built"), seconds=3)  # memory is looked at once a second
    assert not result.failed, result.output


def assert_found(compiler: str, target: str, mistake: str, folder: Path) -> None:
    edit = MISTAKES[target][mistake]
    result = run(build(target, compiler, folder, edits=[edit]), runs=RUNS)
    assert result.failed, result.output
    assert "WRONG: " in result.output or "Sanitizer: " in result.output, result.output


@pytest.mark.parametrize("mistake", WRONG_PLANS)
def test_a_mistake_in_the_plan_is_found(compiler: str, mistake: str, tmp_path: Path) -> None:
    assert_found(compiler, "plan", mistake, tmp_path / "built")


@pytest.mark.slow
@pytest.mark.parametrize(("target", "mistake"), SLOW_MISTAKES)
def test_a_mistake_in_the_kernel_or_the_tiling_is_found(
    compiler: str, target: str, mistake: str, tmp_path: Path
) -> None:
    assert_found(compiler, target, mistake, tmp_path / "built")


def test_a_mistake_that_has_no_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mse_loss_grad_plan.cpp has 'nowhere' 0 times, not once"):
        build("plan", "no compiler", tmp_path / "built", edits=[Edit("mse_loss_grad_plan.cpp", "nowhere", "")])
