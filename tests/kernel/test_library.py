"""The library: it agrees with its header and its sources."""

from __future__ import annotations

import re
import runpy
import subprocess

import pytest

from mse_grad.tensor import DTYPES, DType
from mse_grad_kernel import native as module
from mse_grad_kernel.native import NativeKernel
from support.numerics.kernel_process import BUILD_SCRIPT, VARIANTS
from support.tools import require_program

HEADER = BUILD_SCRIPT.with_name("mse_loss_grad_cpu.h")
PREFIX = "MSE_LOSS_GRAD_CPU_"


def header_numbers() -> dict[str, int]:
    text = HEADER.read_text()
    found = re.findall(rf"\b{PREFIX}(\w+) (?:= )?(\d+)", text)
    return {name.lower(): int(number) for name, number in found}


def defined_symbols(*options: str) -> dict[str, str]:
    """Returns the kind of each symbol that the library defines, by its demangled name."""
    command = [require_program("nm"), "--defined-only", "--demangle", *options, str(module.LIBRARY_PATH)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: kind for _, kind, name in (line.split(" ", 2) for line in lines)}


def test_the_library_was_compiled_from_the_sources_of_this_checkout(native: NativeKernel) -> None:
    source_hash = runpy.run_path(str(BUILD_SCRIPT))["source_hash"]()
    assert native.source_hash == source_hash, "the library is stale; run `make test`, or install the package again"


def test_the_numbers_of_the_header_are_those_that_python_uses() -> None:
    numbers = header_numbers()
    assert numbers["abi_version"] == module._ABI_VERSION
    assert numbers["ok"] == module._OK
    assert {name: numbers[name] for name in module._VARIANTS} == module._VARIANTS == VARIANTS
    assert {dtype.name: numbers[dtype.name] for dtype in DTYPES} == {dtype.name: dtype.wire for dtype in DTYPES}


def test_variants_come_fastest_first_and_portable_last(native: NativeKernel) -> None:
    numbers = [VARIANTS[variant] for variant in native.variants]
    assert numbers == sorted(numbers, reverse=True)
    assert native.variants[-1] == "portable"


def test_only_the_functions_of_the_header_are_exported(native: NativeKernel) -> None:
    declared = set(re.findall(r"^MSE_LOSS_GRAD_CPU_EXPORT .*?(\w+)\(", HEADER.read_text(), re.MULTILINE))
    assert len(declared) == 4
    assert set(defined_symbols("--dynamic")) == declared


def test_no_function_of_one_variant_can_stand_in_for_that_of_another(native: NativeKernel) -> None:
    # Of weak (W, V) and unique (u) symbols the linker keeps one definition for all translation units.
    shared = {name for name, kind in defined_symbols().items() if kind in "WVuwv"}
    assert shared == set()


@pytest.mark.parametrize(
    ("number", "dtype", "expected"),
    [(4, 1, "unavailable_variant"), (-1, 1, "unavailable_variant"), (0, 0, "unknown_dtype"), (0, 5, "unknown_dtype")],
)
def test_wrong_numbers_are_refused(native: NativeKernel, number: int, dtype: int, expected: str) -> None:
    assert native._function(number, dtype, 1, 2.0, 0, None, None, None, None) == header_numbers()[expected]


def test_a_negative_count_is_refused(native: NativeKernel) -> None:
    assert native._function(0, 1, -1, 2.0, 0, None, None, None, None) == header_numbers()["negative_count"]


@pytest.mark.parametrize("scalar_dout", [0, 1], ids=["full", "scalar"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_without_elements_nothing_is_read(native: NativeKernel, variant: str, dtype: DType, scalar_dout: int) -> None:
    number = VARIANTS[variant]
    assert native._function(number, dtype.wire, 0, 2.0, scalar_dout, None, None, None, None) == header_numbers()["ok"]
