"""One server process for each kernel that this machine runs, and for each backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mse_grad.tensor import DTYPES, DType
from mse_grad_client import MseGradClient
from mse_grad_kernel.native import LibraryUnusable, NativeKernel
from support.client.awaited import CLIENTS
from support.server.backends import EACH_BACKEND, running_on
from support.server.server_process import ServerProcess, running_server


def kernels() -> list[Any]:
    """Parameters of `server_of_kernel`: the CPU's kernels that run here, and the kernel of the simulated NPU.

    The fastest variant, which a server chooses by default, and NumPy's run on every Python.
    """
    try:
        fastest, *others = NativeKernel.load().variants
    except LibraryUnusable:
        return ["numpy", pytest.param("ascend", marks=pytest.mark.one_python)]
    return [fastest, "numpy", *(pytest.param(each, marks=pytest.mark.one_python) for each in (*others, "ascend"))]


@pytest.fixture(scope="module", params=kernels())
def server_of_kernel(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server for each kernel in turn."""
    if request.param == "ascend":
        with running_on("ascend") as process:
            yield process
        return
    with running_server("--cpu-kernel", request.param) as process:
        assert process.event("ready")["device"] == request.param
        yield process


@pytest.fixture(scope="module", params=EACH_BACKEND)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server for each backend in turn; on the CPU with the kernel that it chose itself."""
    with running_on(request.param) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[MseGradClient]:
    with MseGradClient(server.address) as connected:
        yield connected


@pytest.fixture(scope="module", params=list(CLIENTS.values()), ids=list(CLIENTS))
def client_type(request: pytest.FixtureRequest) -> type[MseGradClient]:
    """The blocking client, and the one with `await`."""
    chosen: type[MseGradClient] = request.param
    return chosen


@pytest.fixture(scope="module")
def any_client(server: ServerProcess, client_type: type[MseGradClient]) -> Iterator[MseGradClient]:
    """A client of each type in turn."""
    with client_type(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def dtypes(client: MseGradClient) -> tuple[DType, ...]:
    """The dtypes that the server computes."""
    named = client.server_info().dtypes
    return tuple(dtype for dtype in DTYPES if dtype.name in named)
