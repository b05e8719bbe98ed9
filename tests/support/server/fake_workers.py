"""Fake worker processes, which a supervisor starts and the test controls."""

from __future__ import annotations

import asyncio
from typing import Any

from mse_grad_server.process.state import State
from mse_grad_server.workers.protocol import Placement

__all__ = ["FakeProcess", "FakeStarts"]


class FakeProcess:
    """Worker process that the test controls; a `WorkerProcess`.

    Attributes:
        placement: Placement that it was started with.
        pid: Number, counted from 1.
        heard: Messages of the supervisor, oldest first.
        was_terminated: Whether it was asked to end.
        was_killed: Whether it was killed.
    """

    def __init__(self, placement: Placement, pid: int) -> None:
        self.placement = placement
        self.pid = pid
        self.heard: list[dict[str, Any]] = []
        self.was_terminated = False
        self.was_killed = False
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def endpoints(self) -> list[tuple[str, str]]:
        """Device and state of each worker in the last message of endpoints."""
        told = next(message["endpoints"] for message in reversed(self.heard) if "endpoints" in message)
        return [(endpoint["device"], endpoint["state"]) for endpoint in told]

    def say(self, message: dict[str, Any]) -> None:
        """Sends a message to the supervisor."""
        self._said.put_nowait(message)

    def become(self, state: State) -> None:
        """Reports a state to the supervisor."""
        self.say({"state": state.value})

    def end(self, code: int) -> None:
        """Ends with an exit code, negative for a signal."""
        self._code.set_result(code)
        self._said.put_nowait(None)

    def send(self, message: dict[str, Any]) -> None:
        self.heard.append(message)

    async def receive(self) -> dict[str, Any] | None:
        return await self._said.get()

    async def wait(self) -> int:
        return await self._code

    def terminate(self) -> None:
        self.was_terminated = True

    def kill(self) -> None:
        self.was_killed = True
        if not self._code.done():
            self.end(-9)


class FakeStarts:
    """Starter of fake processes.

    Attributes:
        processes: Processes that were started, oldest first.
        error: Raised by the next start, or None.
        begun: How many starts have begun.
        may_start: Starts wait for it; it is set at first.
    """

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.error: Exception | None = None
        self.begun = 0
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def __call__(self, placement: Placement) -> FakeProcess:
        self.begun += 1
        await self.may_start.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.processes.append(FakeProcess(placement, len(self.processes) + 1))
        return self.processes[-1]

    @property
    def last(self) -> FakeProcess:
        """The process that was started last."""
        return self.processes[-1]

    def of(self, worker: str) -> list[FakeProcess]:
        """The processes of one worker, oldest first."""
        return [process for process in self.processes if process.placement.worker == worker]
