"""The simulated device of a test run, built from the sources as they are."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.simulator import Simulator, build
from support.tools import require_program


@pytest.fixture(scope="session")
def libraries() -> Path:
    """The folder of the built libraries."""
    require_program("make")
    require_program("g++")
    return build()


@pytest.fixture(scope="session")
def simulator(libraries: Path) -> Iterator[Simulator]:
    """The device; tests change settings only through `Simulator.settings`."""
    device = Simulator(libraries)
    device.open()
    yield device
    device.close()


@pytest.fixture(scope="session")
def kernels(libraries: Path, simulator: Simulator) -> ctypes.CDLL:
    """The small kernels of tests/simulator/kernels."""
    return ctypes.CDLL(str(libraries / "libtest_kernels.so"))
