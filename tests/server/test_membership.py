from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mse_grad_server.link import Link
from mse_grad_server.membership import BEAT_S, Membership
from mse_grad_server.roster import Endpoint
from mse_grad_server.state import State
from support.in_process import FakeClock
from support.waiting import PATIENCE_S, until

OWN = Endpoint("127.0.0.1:1", "npu:0", State.STARTING)
NEIGHBOUR = Endpoint("127.0.0.1:2", "npu:1", State.RECOVERING)


class Worker:
    """A worker's membership, and the supervisor's end of its link."""

    def __init__(self, own: Link, supervisor: Link) -> None:
        self.clock = FakeClock()
        self.supervisor = supervisor
        self.membership = Membership(own, self.clock, address=OWN.address, common_address="")
        self.attending = asyncio.ensure_future(self.membership.attend(lambda: [["family"]]))

    async def heard(self) -> dict[str, Any] | None:
        """Returns what the supervisor hears next."""
        return await asyncio.wait_for(self.supervisor.receive(), PATIENCE_S)


@asynccontextmanager
async def attending() -> AsyncIterator[Worker]:
    ours, theirs = socket.socketpair()
    own, supervisor = await Link.open(ours), await Link.open(theirs)
    worker = Worker(own, supervisor)
    assert await worker.heard() == {}  # the first beat
    try:
        yield worker
    finally:
        await supervisor.close()
        await asyncio.wait_for(worker.attending, PATIENCE_S)
        await own.close()
    assert worker.clock.pending == 0, "it beats after the end"


async def test_it_beats() -> None:
    async with attending() as worker:
        for _ in range(3):
            worker.clock.advance(BEAT_S)
            assert await worker.heard() == {}


async def test_it_reports_its_state() -> None:
    async with attending() as worker:
        worker.membership.report(State.RECOVERING)
        assert await worker.heard() == {"state": "recovering"}


async def test_it_answers_with_its_metrics() -> None:
    async with attending() as worker:
        worker.supervisor.send({"metrics": 7})
        assert await worker.heard() == {"metrics": 7, "families": [["family"]]}


async def test_of_itself_it_knows_the_state_best() -> None:
    async with attending() as worker:
        assert worker.membership.endpoints(State.READY) == ()
        worker.supervisor.send({"endpoints": [OWN.as_json(), NEIGHBOUR.as_json()]})
        await until(lambda: worker.membership.endpoints(State.STARTING) == (OWN, NEIGHBOUR))
        own, neighbour = worker.membership.endpoints(State.READY)
        assert (own.state, neighbour.state) == (State.READY, State.RECOVERING)


async def test_it_ends_with_its_supervisor() -> None:
    async with attending() as worker:
        await worker.supervisor.close()
        await asyncio.wait_for(asyncio.shield(worker.attending), PATIENCE_S)
