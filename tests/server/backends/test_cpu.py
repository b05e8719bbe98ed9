from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mse_grad import formula
from mse_grad.tensor import DTYPES, FLOAT32, Array, DType, Reduction
from mse_grad_kernel.native import LIBRARY_PATH, LibraryUnusable, NativeKernel
from mse_grad_server.backends.base import Backend, Gradient, GradientSpec
from mse_grad_server.backends.cpu import CpuBackend
from mse_grad_server.errors import BackendError
from mse_grad_server.process.exits import BackendUnavailable, ExitCode
from support.numerics.kernel_operands import assert_same_bits, formula_gradient, kernel_operands
from support.values import operands

NAMES = ("avx512", "avx2", "neon", "portable")


def runnable() -> tuple[str, ...]:
    try:
        return NativeKernel.load().variants
    except LibraryUnusable:
        return ()


every_kernel = pytest.mark.parametrize("kernel", [*runnable(), "numpy"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
compiled = pytest.mark.skipif(not runnable(), reason="this install has no compiled kernel")


@contextmanager
def opened(kernel: str, *, threads: int = 1) -> Iterator[CpuBackend]:
    backend = CpuBackend(kernel, threads=threads)
    backend.open()
    try:
        yield backend
    finally:
        backend.close()


def spec_of(
    dtype: DType, numel: int, reduction: Reduction = Reduction.MEAN, *, scalar_dout: bool = False
) -> GradientSpec:
    return GradientSpec(dtype, reduction, numel, scalar_dout)


@compiled
def test_auto_takes_the_fastest_variant() -> None:
    with opened("auto") as backend:
        assert backend.device == NativeKernel.load().variants[0]
        assert backend.library_path == LIBRARY_PATH
        assert backend.why_numpy == ""


@every_kernel
def test_a_kernel_that_runs_here_can_be_forced(kernel: str) -> None:
    with opened(kernel) as backend:
        assert (backend.name, backend.device, backend.dtypes) == ("cpu", kernel, DTYPES)


@compiled
@pytest.mark.parametrize("kernel", sorted({*NAMES, "sse9"} - {*runnable()}))
def test_a_kernel_that_does_not_run_here_ends_the_start_and_names_those_that_do(kernel: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        CpuBackend(kernel).open()
    assert caught.value.exit_code is ExitCode.BACKEND
    message = str(caught.value)
    assert repr(kernel) in message
    assert all(repr(name) in message for name in (*runnable(), "numpy"))


def test_without_the_library_auto_computes_with_numpy_and_says_why(tmp_path: Path) -> None:
    backend = CpuBackend(library_path=tmp_path / "absent.so")
    backend.open()
    assert (backend.device, backend.library_path) == ("numpy", None)
    assert str(tmp_path / "absent.so") in backend.why_numpy


def test_without_the_library_a_forced_variant_ends_the_start_and_names_numpy(tmp_path: Path) -> None:
    with pytest.raises(
        BackendUnavailable, match=r"'portable' does not run here; 'numpy' does: there is no .*absent\.so"
    ):
        CpuBackend("portable", library_path=tmp_path / "absent.so").open()


def test_numpy_on_request_needs_no_reason() -> None:
    with opened("numpy") as backend:
        assert (backend.why_numpy, backend.library_path) == ("", None)


def test_the_kernel_hash_is_that_of_the_sources_in_use() -> None:
    with opened("numpy") as backend:
        assert backend.kernel_hash == hashlib.sha256(inspect.getsource(formula).encode()).hexdigest()
    for variant in runnable():
        with opened(variant) as backend:
            assert backend.kernel_hash == NativeKernel.load().source_hash


@every_kernel
@every_dtype
@pytest.mark.parametrize("reduction", Reduction)
def test_the_gradient_has_the_bits_of_the_formula(kernel: str, dtype: DType, reduction: Reduction) -> None:
    with opened(kernel) as backend:
        for numel in (777, 10_000_000):
            for predict, label, dout in kernel_operands(777, dtype):
                y = np.empty_like(predict)
                backend.compute(Gradient(spec_of(dtype, numel, reduction), predict, label, dout, y))
                c = formula.coefficient(reduction, numel, dtype)
                assert_same_bits(y, formula_gradient(predict, label, dout, c=c, dtype=dtype))


@every_kernel
@every_dtype
def test_a_scalar_dout_gives_the_bits_of_a_full_one(kernel: str, dtype: DType) -> None:
    with opened(kernel) as backend:
        for predict, label, dout in kernel_operands(777, dtype):
            full, scalar = np.empty_like(predict), np.empty_like(predict)
            backend.compute(Gradient(spec_of(dtype, 777), predict, label, np.repeat(dout[:1], 777), full))
            spec = GradientSpec(dtype, Reduction.MEAN, 777, scalar_dout=True)
            backend.compute(Gradient(spec, predict, label, dout[:1], scalar))
            assert_same_bits(scalar, full)


@every_kernel
def test_read_only_operands_at_odd_addresses_are_computed(kernel: str) -> None:
    predict, label, dout = next(kernel_operands(100, FLOAT32))

    def odd(array: Array) -> Array:
        return np.frombuffer(b"\x00" + array.tobytes(), np.float32, offset=1)

    y = np.frombuffer(bytearray(401), np.float32, offset=1)
    with opened(kernel) as backend:
        backend.compute(Gradient(spec_of(FLOAT32, 100), odd(predict), odd(label), odd(dout), y))
    c = formula.coefficient(Reduction.MEAN, 100, FLOAT32)
    assert_same_bits(y, formula_gradient(predict, label, dout, c=c, dtype=FLOAT32))


@every_kernel
def test_many_threads_at_a_time_get_the_bits_that_one_gets(kernel: str) -> None:
    with opened(kernel) as backend:

        def gradient(seed: int) -> tuple[Array, Array]:
            predict, label, dout = next(kernel_operands(20_000, FLOAT32, seed=seed))
            y = np.empty_like(predict)
            backend.compute(Gradient(spec_of(FLOAT32, 20_000), predict, label, dout, y))
            c = formula.coefficient(Reduction.MEAN, 20_000, FLOAT32)
            return y, formula_gradient(predict, label, dout, c=c, dtype=FLOAT32)

        with ThreadPoolExecutor(8) as pool:
            for y, expected in pool.map(gradient, range(64)):
                assert_same_bits(y, expected)


@every_kernel
def test_a_backend_that_is_not_open_computes_nothing(kernel: str) -> None:
    backend: Backend = CpuBackend(kernel)
    one = np.ones(1, np.float32)
    with pytest.raises(BackendError, match="not open"):
        backend.compute(Gradient(spec_of(FLOAT32, 1), one, one, one, one.copy()))
    backend.open()
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="not open"):
        backend.compute(Gradient(spec_of(FLOAT32, 1), one, one, one, one.copy()))
    assert (backend.device, backend.kernel_hash) == ("", "")


@pytest.mark.parametrize("kernel", [*runnable()[:1], "numpy"])
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full dout", "scalar dout"])
@pytest.mark.parametrize("count", [2 * 2**20 - 1, 2 * 2**20, 3 * 2**20 + 17], ids=str)
def test_slices_on_several_threads_have_the_bits_of_one_thread(kernel: str, scalar_dout: bool, count: int) -> None:
    x, t, g = operands((count,))
    g = g[:1] if scalar_dout else g
    spec = spec_of(FLOAT32, count, scalar_dout=scalar_dout)
    ys = [np.full(count, 9, np.float32) for _ in range(2)]
    for threads, y in zip((1, 3), ys, strict=True):
        with opened(kernel, threads=threads) as backend:
            backend.compute(Gradient(spec, x, t, g, y))
    assert_same_bits(ys[1], ys[0])


def test_a_failing_slice_fails_the_gradient() -> None:
    count = 3 * 2**20
    x, t, g = operands((count,))
    with opened("auto", threads=3) as backend, pytest.raises(ValueError):  # noqa: PT011 - NumPy's words or the kernel's
        backend.compute(Gradient(spec_of(FLOAT32, count), x, t[: count - 1], g, np.empty_like(x)))
