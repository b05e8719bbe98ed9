"""One server process for each kernel that this machine runs, and for each backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mse_grad.tensor import DTYPES, DType
from mse_grad_client import MseGradClient
from mse_grad_server.backends.native import LibraryUnusable, NativeKernel
from support.backends import EACH_BACKEND, running_on
from support.server import ServerProcess, running_server


def cpu_kernels() -> tuple[str, ...]:
    """The kernels of the CPU that run here, NumPy last."""
    try:
        return (*NativeKernel.load().variants, "numpy")
    except LibraryUnusable:
        return ("numpy",)


@pytest.fixture(scope="module", params=[*cpu_kernels(), "ascend"])
def server_of_kernel(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server for each kernel in turn, at last that of the simulated NPU."""
    if request.param == "ascend":
        with running_on("ascend") as process:
            yield process
        return
    with running_server("--cpu-kernel", request.param) as process:
        assert process.event("ready")["device"] == request.param
        yield process


@pytest.fixture(scope="module", params=EACH_BACKEND)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server for each backend in turn, on the CPU with the kernel that it chose itself."""
    with running_on(request.param) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[MseGradClient]:
    with MseGradClient(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def dtypes(client: MseGradClient) -> tuple[DType, ...]:
    """What the server computes."""
    named = client.server_info().dtypes
    return tuple(dtype for dtype in DTYPES if dtype.name in named)
