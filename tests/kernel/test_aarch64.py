"""The kernel compiled for aarch64, under qemu."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, DType
from mse_grad_cli.conformance import run_bar
from support.numerics.compute import backend_compute
from support.numerics.kernel_operands import assert_same_bits, formula_gradient, kernel_operands
from support.numerics.kernel_process import KernelProcess, ProcessBackend
from support.numerics.qemu_kernel import qemu_kernel

C = 2 / 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    with qemu_kernel(tmp_path_factory.mktemp("aarch64")) as kernel:
        yield kernel


def test_aarch64_runs_neon_and_portable(emulated: KernelProcess) -> None:
    assert set(emulated.variants) == {"neon", "portable"}


@pytest.mark.parametrize("variant", ["neon", "portable"])
def test_every_line_of_the_bar_holds(emulated: KernelProcess, variant: str) -> None:
    report = run_bar(backend_compute(ProcessBackend(emulated, variant)))
    assert report.passed, str(report)


@pytest.mark.parametrize("variant", ["neon", "portable"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_any_length_and_address_gives_the_bits_of_the_formula(
    emulated: KernelProcess, variant: str, dtype: DType
) -> None:
    for count in (*range(1, 70), 513, 4097):
        for kind, (predict, label, dout) in enumerate(kernel_operands(count, dtype)):
            for scalar_dout in (False, True):
                used = dout[:1] if scalar_dout else dout
                y = emulated.gradient(
                    variant, dtype, predict, label, used, c=C, scalar_dout=scalar_dout, misalignment=kind * 13 % 64
                )
                assert_same_bits(y, formula_gradient(predict, label, used, c=C, dtype=dtype))


@pytest.mark.parametrize("variant", ["neon", "portable"])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_every_value_of_16_bits_gives_the_bits_of_the_formula(
    emulated: KernelProcess, variant: str, dtype: DType
) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    for turns in (0, 1, 4321, 12345, 33333):
        operands = (every, np.roll(every, turns), np.roll(every, -7 * turns))
        y = emulated.gradient(variant, dtype, *operands, c=C)
        assert_same_bits(y, formula_gradient(*operands, c=C, dtype=dtype))
