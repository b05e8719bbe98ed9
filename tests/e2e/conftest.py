"""Fixtures of the tests with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mse_grad_client import MseGradClient
from support.server.backends import EACH_BACKEND, running_on
from support.server.server_process import ServerProcess, running_server


@pytest.fixture(scope="session", params=EACH_BACKEND)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn, for `running_on`."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A CPU server that the tests of one module share; it must end with exit code 0."""
    with running_server() as process:
        yield process


@pytest.fixture(scope="module")
def server_of_backend(backend: str) -> Iterator[ServerProcess]:
    """The same on each backend in turn."""
    with running_on(backend) as process:
        yield process


@pytest.fixture
def client(server_of_backend: ServerProcess) -> Iterator[MseGradClient]:
    with MseGradClient(server_of_backend.address) as connected:
        yield connected
