from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from mse_grad_server.rpc.admission import rpc_tasks
from mse_grad_server.rpc.admission.rpc_tasks import on_rpc_end
from support.server.server_in_loop import serving


@pytest.fixture(autouse=True)
def _untold() -> Iterator[None]:
    rpc_tasks._warn_of_unknown_tasks.cache_clear()
    yield
    rpc_tasks._warn_of_unknown_tasks.cache_clear()


async def test_with_this_version_of_grpc_each_rpc_can_be_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        await server.call("GetServerInfo", b"")
    assert not [record for record in caplog.records if record.name == rpc_tasks.__name__]


async def test_a_version_whose_tasks_have_another_name_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    async def handle() -> None:
        on_rpc_end(lambda: None)

    for _ in range(3):
        await asyncio.ensure_future(handle())
    (record,) = [record for record in caplog.records if record.name == rpc_tasks.__name__]
    assert grpc.__version__ in record.getMessage()
