from __future__ import annotations

import _ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mse_grad.tensor import FLOAT32, Array
from mse_grad_kernel.native import LibraryUnusable, NativeKernel
from support.tools import require_program

NAMES = ("predict", "label", "dout", "y")


@pytest.fixture
def native() -> NativeKernel:
    try:
        return NativeKernel.load()
    except LibraryUnusable as cause:
        pytest.skip(str(cause))


def library(folder: Path, source: str) -> Path:
    """Returns a library of `source`, in C++."""
    path = folder / "other.so"
    path.with_suffix(".cpp").write_text(source)
    command = [require_program("c++"), "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".cpp"))]
    subprocess.run(command, check=True)
    return path


def assert_refused(native: NativeKernel, match: str, arrays: dict[str, Array], *, scalar_dout: bool = False) -> None:
    with pytest.raises(ValueError, match=match):
        native.compute("portable", FLOAT32, **arrays, c=2.0, scalar_dout=scalar_dout)


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(LibraryUnusable, match=r"there is no .*absent\.so; an install that finds a C\+\+ compiler"):
        NativeKernel.load(tmp_path / "absent.so")


def test_a_file_that_is_no_library_is_unusable(tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("no library")
    with pytest.raises(LibraryUnusable, match="cannot be loaded"):
        NativeKernel.load(path)


def test_a_library_of_something_else_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(LibraryUnusable, match=r"cannot be loaded: .*MseLossGradCpuAbiVersion"):
        NativeKernel.load(library(tmp_path, 'extern "C" int Other() { return 1; }'))


def test_a_library_of_another_version_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(LibraryUnusable, match="has ABI version 0, not 1; install the package again"):
        NativeKernel.load(library(tmp_path, 'extern "C" int MseLossGradCpuAbiVersion() { return 0; }'))


def test_the_gil_is_released_during_the_call(native: NativeKernel) -> None:
    assert not native._function._flags_ & _ctypes.FUNCFLAG_PYTHONAPI


@pytest.mark.parametrize("short", ["label", "dout", "y"])
def test_operands_of_another_size_are_refused(native: NativeKernel, short: str) -> None:
    arrays = {name: np.ones(3 if name == short else 4, np.float32) for name in NAMES}
    assert_refused(native, f"{short} 12", arrays)
    assert (arrays["y"] == 1).all()


def test_a_scalar_dout_of_two_elements_is_refused(native: NativeKernel) -> None:
    four = np.ones(4, np.float32)
    arrays = {"predict": four, "label": four, "dout": four[:2], "y": four.copy()}
    assert_refused(native, "dout 8", arrays, scalar_dout=True)


@pytest.mark.parametrize("strided", ["predict", "label", "dout", "y"])
def test_operands_with_gaps_are_refused(native: NativeKernel, strided: str) -> None:
    arrays = {name: np.ones(8, np.float32)[::2] if name == strided else np.ones(4, np.float32) for name in NAMES}
    assert_refused(native, "must be contiguous", arrays)
    assert (arrays["y"] == 1).all()


def test_a_read_only_y_is_refused(native: NativeKernel) -> None:
    four = np.ones(4, np.float32)
    y = np.frombuffer(bytes(16), np.float32)
    arrays = {"predict": four, "label": four, "dout": four, "y": y}
    assert_refused(native, "y must be contiguous and writable", arrays)
    assert (y == 0).all()


def test_an_unknown_variant_is_refused(native: NativeKernel) -> None:
    absent = next(name for name in ("neon", "avx512", "avx2") if name not in native.variants)
    four = np.ones(4, np.float32)
    y = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=f"the kernel refused variant '{absent}' with dtype float32: status 2"):
        native.compute(absent, FLOAT32, four, four, four, y, c=2.0, scalar_dout=False)
    assert (y == 0).all()
