"""One server process for each kernel that this machine runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mse_grad_client import MseGradClient
from mse_grad_server.backends.native import LibraryUnusable, NativeKernel
from support.server import ServerProcess, running_server


def kernels() -> tuple[str, ...]:
    """The kernels that run here, NumPy last."""
    try:
        return (*NativeKernel.load().variants, "numpy")
    except LibraryUnusable:
        return ("numpy",)


@pytest.fixture(scope="module", params=kernels())
def server_of_kernel(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server for each kernel in turn."""
    with running_server("--cpu-kernel", request.param) as process:
        assert process.event("ready")["device"] == request.param
        yield process


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server with the kernel that it chose itself."""
    with running_server() as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[MseGradClient]:
    with MseGradClient(server.address) as connected:
        yield connected
