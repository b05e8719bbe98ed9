from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest

from mse_grad_server.process.exits import ListenError
from mse_grad_server.process.log import open_log
from mse_grad_server.process.state import State
from mse_grad_server.rpc.readiness import Readiness


class Everyone:
    """Stand-in for port, health and supervisor, with the announcements that they received, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.state = State.READY
        self.error: ListenError | None = None
        self.log = io.StringIO()
        everyone: Any = self
        self.readiness = Readiness(
            lambda: self.state,
            everyone,
            open_log("info", "json", stream=self.log),
            common_port=everyone,
            registration=everyone,
        )

    async def set_open(self, is_wanted: bool) -> None:
        await asyncio.sleep(0)
        self.told.append(("port", is_wanted))
        if self.error is not None:
            raise self.error

    async def set_ready(self, is_ready: bool) -> None:
        await asyncio.sleep(0)
        self.told.append(("health", is_ready))

    async def drain(self) -> None:
        self.told.append(("health", "drains"))

    def report(self, state: State) -> None:
        self.told.append(("supervisor", state))


@pytest.mark.parametrize("state", [State.READY, State.RECOVERING])
async def test_the_common_port_is_first_and_the_supervisor_last(state: State) -> None:
    everyone = Everyone()
    everyone.state = state
    await everyone.readiness.announce()
    is_ready = state is State.READY
    assert everyone.told == [("port", is_ready), ("health", is_ready), ("supervisor", state)]


async def test_a_state_that_changes_meanwhile_is_announced_last() -> None:
    everyone = Everyone()
    everyone.readiness.announce_soon()
    await asyncio.sleep(0)
    everyone.state = State.RECOVERING
    await everyone.readiness.announce()
    assert everyone.told[-3:] == [("port", False), ("health", False), ("supervisor", State.RECOVERING)]


async def test_after_the_drain_no_other_state_is_announced() -> None:
    everyone = Everyone()
    everyone.readiness.announce_soon()
    await (await everyone.readiness.drain())
    await everyone.readiness.announce()
    assert everyone.told[-3:] == [("port", False), ("supervisor", State.DRAINING), ("health", "drains")]


async def test_a_worker_that_cannot_share_the_port_serves_at_its_own_address() -> None:
    everyone = Everyone()
    everyone.error = ListenError("cannot listen on 127.0.0.1:1")
    await everyone.readiness.announce()
    assert everyone.told[-1] == ("supervisor", State.READY)
    (line,) = [json.loads(line) for line in everyone.log.getvalue().splitlines()]
    assert (line["event"], line["message"]) == ("common_port", "cannot listen on 127.0.0.1:1")
