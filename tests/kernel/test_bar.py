"""The numerical bar on every kernel that this machine runs."""

from __future__ import annotations

import pytest

from mse_grad_cli.conformance import run_bar
from mse_grad_kernel.native import NativeKernel
from mse_grad_server.backends.cpu import CpuBackend
from support.numerics.compute import backend_compute, formula_compute


def judge(kernel: str, *, quick: bool) -> None:
    backend = CpuBackend(kernel)
    backend.open()
    try:
        report = run_bar(backend_compute(backend), paths={"formula": formula_compute}, quick=quick)
    finally:
        backend.close()
    assert report.passed, str(report)


def test_every_line_of_the_bar_holds_for_each_variant(native: NativeKernel, variant: str) -> None:
    judge(variant, quick=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_line_of_the_bar_holds_for_each_variant_at_full_length(native: NativeKernel, variant: str) -> None:
    judge(variant, quick=False)
