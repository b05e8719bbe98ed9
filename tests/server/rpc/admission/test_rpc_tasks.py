from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from mse_grad_server.process.exits import ExitCode
from mse_grad_server.rpc.admission import rpc_tasks
from mse_grad_server.rpc.admission.rpc_tasks import on_rpc_end
from support.server.server_in_loop import serving
from support.waiting import PATIENCE_S


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # gRPC's, as its future has ended
async def test_a_server_whose_grpc_accepts_no_further_calls_has_to_end(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        (accepting,) = [
            task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "_server_main_loop"
        ]
        waiting_for: asyncio.Future[object] = accepting._fut_waiter  # type: ignore[attr-defined]
        waiting_for.set_exception(MemoryError())
        error = await asyncio.wait_for(server.server.lost, PATIENCE_S)
        assert error.exit_code is ExitCode.FAILED
        assert "the process ends: MemoryError()" in caplog.text
