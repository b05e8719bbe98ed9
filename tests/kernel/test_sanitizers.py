"""The kernel under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mse_grad.tensor import DTYPES, DType
from support.numerics.kernel_operands import assert_same_bits, formula_gradient, kernel_operands
from support.numerics.kernel_process import KernelProcess, build_runner, running_kernel

C = 2 / 3
STREAMED_COUNT = (8 << 20) // 2 + 33

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    with running_kernel(
        str(build_runner("c++", tmp_path_factory.mktemp("sanitized") / "runner", flags=flags))
    ) as kernel:
        yield kernel


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_sanitizers_find_nothing_at_any_length_and_address(sanitized: KernelProcess, dtype: DType) -> None:
    for variant in sanitized.variants:
        for count in (1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 513, 4097):
            for shift, (predict, label, dout) in enumerate(kernel_operands(count, dtype)):
                for scalar_dout in (False, True):
                    used = dout[:1] if scalar_dout else dout
                    y = sanitized.gradient(
                        variant, dtype, predict, label, used, c=C, scalar_dout=scalar_dout, misalignment=shift
                    )
                    assert_same_bits(y, formula_gradient(predict, label, used, c=C, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("misalignment", [0, 1, 8])
def test_sanitizers_find_nothing_in_streamed_stores(sanitized: KernelProcess, dtype: DType, misalignment: int) -> None:
    predict, label, dout = next(kernel_operands(STREAMED_COUNT, dtype))
    expected = formula_gradient(predict, label, dout, c=C, dtype=dtype)
    for variant in sanitized.variants:
        y = sanitized.gradient(variant, dtype, predict, label, dout, c=C, misalignment=misalignment)
        assert_same_bits(y, expected)
