from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mse_grad_server.process.state import State
from mse_grad_server.workers.protocol import ControlChannel, Endpoint
from mse_grad_server.workers.registration import HEARTBEAT_S, Registration
from support.server.fakes import FakeClock
from support.waiting import PATIENCE_S, until

OWN = Endpoint("127.0.0.1:1", "npu:0", State.STARTING)
NEIGHBOUR = Endpoint("127.0.0.1:2", "npu:1", State.RECOVERING)


class Worker:
    """A worker's registration, and the supervisor's end of its control channel."""

    def __init__(self, own: ControlChannel, supervisor: ControlChannel) -> None:
        self.clock = FakeClock()
        self.supervisor = supervisor
        self.registration = Registration(own, self.clock, address=OWN.address, common_address="")
        self.attending = asyncio.ensure_future(self.registration.attend(lambda: [["family"]]))

    async def heard(self) -> dict[str, Any] | None:
        """Returns the next message that the supervisor receives."""
        return await asyncio.wait_for(self.supervisor.receive(), PATIENCE_S)


@asynccontextmanager
async def attending() -> AsyncIterator[Worker]:
    ours, theirs = socket.socketpair()
    own, supervisor = await ControlChannel.open(ours), await ControlChannel.open(theirs)
    worker = Worker(own, supervisor)
    assert await worker.heard() == {}  # the first heartbeat
    try:
        yield worker
    finally:
        await supervisor.close()
        await asyncio.wait_for(worker.attending, PATIENCE_S)
        await own.close()
    assert worker.clock.pending == 0, "a heartbeat is scheduled after the end"


async def test_it_sends_heartbeats() -> None:
    async with attending() as worker:
        for _ in range(3):
            worker.clock.advance(HEARTBEAT_S)
            assert await worker.heard() == {}


async def test_it_reports_its_state() -> None:
    async with attending() as worker:
        worker.registration.report(State.RECOVERING)
        assert await worker.heard() == {"state": "recovering"}


async def test_it_answers_with_its_metrics() -> None:
    async with attending() as worker:
        worker.supervisor.send({"metrics": 7})
        assert await worker.heard() == {"metrics": 7, "families": [["family"]]}


async def test_its_own_state_replaces_the_one_of_the_supervisor() -> None:
    async with attending() as worker:
        assert worker.registration.endpoints(State.READY) == ()
        worker.supervisor.send({"endpoints": [OWN.as_json(), NEIGHBOUR.as_json()]})
        await until(lambda: worker.registration.endpoints(State.STARTING) == (OWN, NEIGHBOUR))
        own, neighbour = worker.registration.endpoints(State.READY)
        assert (own.state, neighbour.state) == (State.READY, State.RECOVERING)


async def test_it_ends_with_its_supervisor() -> None:
    async with attending() as worker:
        await worker.supervisor.close()
        await asyncio.wait_for(asyncio.shield(worker.attending), PATIENCE_S)


@pytest.mark.parametrize("endpoints", [7, [7], [{}], [{"address": "a", "device": "cpu", "state": "well"}]])
async def test_a_broken_message_of_the_supervisor_is_its_end(endpoints: object) -> None:
    async with attending() as worker:
        worker.supervisor.send({"endpoints": endpoints})
        await asyncio.wait_for(asyncio.shield(worker.attending), PATIENCE_S)
