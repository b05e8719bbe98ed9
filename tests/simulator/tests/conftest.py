"""The simulated device of a test run, built from the sources as they are."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.npu.simulator import Simulator, require_simulator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests are about C++, so one version of Python is enough."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.one_python)


@pytest.fixture(scope="session")
def libraries() -> Path:
    """The folder of the built libraries; those with sanitizers if test_sanitizers.py started this process."""
    return require_simulator(sanitize="MSE_GRAD_TEST_SANITIZE" in os.environ)


@pytest.fixture(scope="module")
def simulator(libraries: Path) -> Iterator[Simulator]:
    """The device; tests change settings only through `Simulator.settings`.

    Tests of other modules reset the device, after which this thread has no context.
    """
    device = Simulator(libraries)
    device.open()
    yield device
    device.close()


@pytest.fixture(scope="module")
def kernels(libraries: Path, simulator: Simulator) -> ctypes.CDLL:
    """The small kernels of tests/simulator/kernels."""
    return ctypes.CDLL(str(libraries / "libtest_kernels.so"))
