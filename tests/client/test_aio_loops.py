"""The client with `await` in its event loop: it never holds the loop up, and works in loops of every kind."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from mse_grad_client import AsyncMseGradClient, ClientOptions
from support.client.scripted_server import ScriptedServer
from support.server.server_process import running_server, stopped
from support.tools import require_module
from support.values import expected, operands
from support.waiting import PATIENCE_S, until

GIVEN = operands((16,))


class GatedServer(ScriptedServer):
    """A server that opens a stream only when the test says so.

    Attributes:
        asked: How many streams clients have asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self._gate = threading.Semaphore(0)

    def open_one(self) -> None:
        self._gate.release()

    def _stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.asked += 1
        assert self._gate.acquire(timeout=PATIENCE_S)
        yield from super()._stream(messages, context)


def test_the_loop_runs_on_while_streams_open_and_old_ones_are_replaced() -> None:
    async def main(server: GatedServer) -> None:
        options = ClientOptions(max_stream_age_s=1e-6)  # each call finds the stream of the last one too old
        async with AsyncMseGradClient(server.address, options=options) as client:
            for number in range(1, 5):
                task = asyncio.create_task(client.compute(*GIVEN, timeout_s=2 * PATIENCE_S))
                await until(lambda number=number: server.asked == number)  # type: ignore[misc]
                server.open_one()
                np.testing.assert_array_equal(await task, expected(*GIVEN))

    server = GatedServer()
    with server:
        asyncio.run(main(server))


def test_the_loop_runs_on_while_a_name_is_looked_up() -> None:
    looked_up, gate = threading.Event(), threading.Event()

    async def main(server: ScriptedServer) -> None:
        def resolve(host: str, port: int) -> list[str]:
            looked_up.set()
            assert gate.wait(PATIENCE_S)
            return [server.address]

        async with AsyncMseGradClient("dns:///mse-grad:1", options=ClientOptions(resolve=resolve)) as client:
            task = asyncio.create_task(client.compute(*GIVEN, timeout_s=2 * PATIENCE_S))
            await until(looked_up.is_set)
            known = threading.active_count()
            late = [asyncio.create_task(client.compute(*GIVEN)) for _ in range(100)]
            await asyncio.sleep(0)
            for each in late:
                each.cancel()
            await asyncio.wait(late)
            assert all(each.cancelled() for each in late)
            assert threading.active_count() <= known
            gate.set()
            np.testing.assert_array_equal(await task, expected(*GIVEN))

    with ScriptedServer() as server:
        asyncio.run(main(server))


async def use(address: str, *, shared_memory: bool) -> None:
    """Computes in many tasks at a time, with more operands than the kernel has room for."""
    given = operands((1024,))
    async with AsyncMseGradClient(address, options=ClientOptions(shared_memory=shared_memory)) as client:
        await client.wait_ready(PATIENCE_S)
        for y in await asyncio.gather(*(client.compute(*given) for _ in range(500))):
            np.testing.assert_array_equal(y, expected(*given))
        np.testing.assert_array_equal(await client.compute_unary(*given), expected(*given))
        async for y in client.compute_many([given] * 100):
            np.testing.assert_array_equal(y, expected(*given))


@pytest.mark.slow  # like all tests that need more than `make test` installs
@pytest.mark.parametrize("shared_memory", [False, True])
def test_a_loop_of_uvloop(shared_memory: bool) -> None:
    require_module("uvloop")
    uvloop: Any = importlib.import_module("uvloop")
    with running_server() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use(server.address, shared_memory=shared_memory))


@pytest.mark.slow  # as above
@pytest.mark.parametrize("shared_memory", [False, True])
def test_tasks_of_anyio_and_its_cancel_scopes(shared_memory: bool) -> None:
    require_module("anyio")
    anyio: Any = importlib.import_module("anyio")
    given = operands((1024,))

    async def main() -> None:
        await use(server.address, shared_memory=shared_memory)
        async with AsyncMseGradClient(server.address, options=ClientOptions(shared_memory=shared_memory)) as client:
            await client.compute(*given)
            found: list[Any] = []

            async def compute() -> None:
                found.append(await client.compute(*given))

            with stopped(server.process):
                async with anyio.create_task_group() as group:
                    for _ in range(100):
                        group.start_soon(compute)
                    await anyio.wait_all_tasks_blocked()
                    group.cancel_scope.cancel()
                assert found == []
                with anyio.move_on_after(0.05) as scope:
                    await client.compute(*given)
                assert scope.cancelled_caught
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(compute)
            assert len(found) == 100
            for y in found:
                np.testing.assert_array_equal(y, expected(*given))

    with running_server() as server:
        anyio.run(main)
