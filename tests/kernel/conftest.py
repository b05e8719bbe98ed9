"""The compiled kernel of this install, and its variants that this machine runs."""

from __future__ import annotations

import os

import pytest

from mse_grad_kernel.native import LibraryUnusable, NativeKernel


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that asks for `native` and a `variant` once for each variant."""
    if not {"native", "variant"} <= set(metafunc.fixturenames):
        return
    try:
        variants = NativeKernel.load().variants
    except LibraryUnusable:
        variants = ("portable",)  # then the fixture `native` reports the missing kernel
    metafunc.parametrize("variant", variants)


@pytest.fixture(scope="session")
def native() -> NativeKernel:
    """The compiled kernel; without it the test is skipped, or fails if CI is set."""
    try:
        return NativeKernel.load()
    except LibraryUnusable as cause:
        if os.environ.get("CI"):
            pytest.fail(f"{cause}; CI runs every test", pytrace=False)
        pytest.skip(str(cause))
