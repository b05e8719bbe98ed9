"""The install: it compiles the kernel if it can, and continues without it if it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mse_grad.tensor import DTYPES
from support.numerics.kernel_operands import assert_same_bits, formula_gradient, kernel_operands
from support.numerics.kernel_process import BUILD_SCRIPT
from support.tools import require_program

ROOT = BUILD_SCRIPT.parents[2]
LIBRARY = "mse_grad_kernel/libmse_loss_grad_cpu.so"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
import json, sys
import numpy as np
from mse_grad.tensor import DTYPES, Reduction
from mse_grad_server.backends.base import Gradient, GradientSpec
from mse_grad_server.backends.cpu import CpuBackend

backend = CpuBackend()
backend.open()
for dtype in DTYPES:
    predict, label, dout = (
        np.fromfile(f"{sys.argv[1]}/{dtype.name}.{name}", dtype.numpy) for name in ("predict", "label", "dout")
    )
    y = np.empty_like(predict)
    backend.compute(Gradient(GradientSpec(dtype, Reduction.SUM, y.size, False), predict, label, dout, y))
    y.tofile(f"{sys.argv[1]}/{dtype.name}.y")
json.dump({"device": backend.device, "why_numpy": backend.why_numpy}, sys.stdout)
"""


def build_wheel(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Runs the build; returns its result and the wheels that it made in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("CXX", "MSE_GRAD_BUILD_KERNEL")}
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    output = subprocess.PIPE
    ended = subprocess.run(
        command, env={**inherited, **environment}, stdout=output, stderr=subprocess.STDOUT, text=True, check=False
    )
    return ended, list(folder.glob("*.whl"))


def has_library(wheel: Path) -> bool:
    with zipfile.ZipFile(wheel) as archive:
        return LIBRARY in archive.namelist()


def path_without_compilers(folder: Path) -> str:
    """Returns a PATH with nothing but this Python."""
    folder.mkdir()
    (folder / "python3").symlink_to(sys.executable)
    return str(folder)


def test_a_wheel_with_the_kernel_is_for_this_platform(tmp_path: Path) -> None:
    require_program("c++")
    ended, wheels = build_wheel(tmp_path, MSE_GRAD_BUILD_KERNEL="require")
    assert ended.returncode == 0, ended.stdout
    (wheel,) = wheels
    assert has_library(wheel)
    assert "-py3-none-linux_" in wheel.name


def test_without_a_compiler_the_install_continues_and_numpy_gives_the_same_bits(tmp_path: Path) -> None:
    ended, wheels = build_wheel(tmp_path, PATH=path_without_compilers(tmp_path / "bin"))
    assert ended.returncode == 0, ended.stdout
    assert "the CPU kernel did not compile, NumPy will compute" in ended.stdout
    assert "none of c++, g++ and clang++ is on PATH" in ended.stdout
    (wheel,) = wheels
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not has_library(wheel)

    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    for dtype in DTYPES:
        operands = next(kernel_operands(10_001, dtype))
        for operand, name in zip(operands, ("predict", "label", "dout"), strict=True):
            operand.tofile(tmp_path / f"{dtype.name}.{name}")
    command = [str(python), "-I", "-c", PROGRAM, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["device"] == "numpy"
    assert "libmse_loss_grad_cpu.so; an install that finds a C++ compiler makes it" in found["why_numpy"]
    for dtype in DTYPES:
        y = np.fromfile(tmp_path / f"{dtype.name}.y", dtype.numpy)
        assert_same_bits(y, formula_gradient(*next(kernel_operands(10_001, dtype)), c=2.0, dtype=dtype))


def failing_compiler(folder: Path) -> str:
    """Returns a compiler that prints its target and fails at everything else."""
    path = folder / "failing-c++"
    path.write_text("""#!/bin/sh
case "$*" in *-dumpmachine*) echo x86_64-linux-gnu ;; *) echo 'mind the gap' >&2; exit 3 ;; esac
""")
    path.chmod(0o755)
    return str(path)


def test_if_the_kernel_does_not_compile_the_install_continues_and_prints_the_compilers_output(
    tmp_path: Path,
) -> None:
    ended, wheels = build_wheel(tmp_path, CXX=failing_compiler(tmp_path))
    assert ended.returncode == 0, ended.stdout
    assert "mind the gap" in ended.stdout
    (wheel,) = wheels
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not has_library(wheel)


def test_a_required_kernel_that_does_not_compile_fails_the_install(tmp_path: Path) -> None:
    ended, wheels = build_wheel(tmp_path, CXX=failing_compiler(tmp_path), MSE_GRAD_BUILD_KERNEL="require")
    assert ended.returncode != 0
    assert "mind the gap" in ended.stdout
    assert wheels == []


def test_the_kernel_can_be_left_out(tmp_path: Path) -> None:
    ended, wheels = build_wheel(tmp_path, MSE_GRAD_BUILD_KERNEL="0")
    assert ended.returncode == 0, ended.stdout
    assert "the CPU kernel is left out" in ended.stdout
    assert [has_library(wheel) for wheel in wheels] == [False]


def test_an_unknown_value_of_the_switch_fails_the_install_and_names_the_known_ones(tmp_path: Path) -> None:
    ended, wheels = build_wheel(tmp_path, MSE_GRAD_BUILD_KERNEL="maybe")
    assert ended.returncode != 0
    assert "MSE_GRAD_BUILD_KERNEL is 'maybe'; it must be 'auto', '0' or 'require'" in ended.stdout
    assert wheels == []


def test_a_source_distribution_builds_the_wheel_with_the_kernel(tmp_path: Path) -> None:
    require_program("c++")
    environment = {**os.environ, "MSE_GRAD_BUILD_KERNEL": "require"}
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(list(tmp_path.glob("*.tar.gz"))) == 1
    (wheel,) = tmp_path.glob("*.whl")  # `build` makes the wheel from the source distribution
    assert has_library(wheel)


def test_an_editable_install_puts_the_library_into_the_checkout_and_removes_a_stale_one(tmp_path: Path) -> None:
    require_program("c++")
    subprocess.run([sys.executable, "-m", "build", "--sdist", "--outdir", str(tmp_path), str(ROOT)], check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(tmp_path)], check=True)
    checkout = tmp_path / archive.name.removesuffix(".tar.gz")
    library = checkout / "kernel" / LIBRARY
    assert not library.exists()
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    for setting, compiled in (("require", True), ("0", False)):
        command = [str(tmp_path / "venv" / "bin" / "python"), "-m", "pip", "install", "--no-deps", "-e", str(checkout)]
        subprocess.run(command, env={**os.environ, "MSE_GRAD_BUILD_KERNEL": setting}, check=True)
        assert library.exists() is compiled


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    compiler = require_program("c++")
    libraries = [tmp_path / "first.so", tmp_path / "second.so"]
    for library in libraries:
        command = [sys.executable, str(BUILD_SCRIPT), "--compiler", compiler, "--output", str(library)]
        subprocess.run(command, check=True)
    assert libraries[0].read_bytes() == libraries[1].read_bytes()
