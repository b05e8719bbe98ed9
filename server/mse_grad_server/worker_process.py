"""A worker's process, from outside."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from typing import Any, Protocol

from mse_grad_server.link import Link
from mse_grad_server.roster import Placement

__all__ = ["Spawn", "WorkerProcess", "spawn"]


class WorkerProcess(Protocol):
    """A process and the link to it; belongs to the event loop."""

    @property
    def pid(self) -> int:
        """Its number."""

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message, if somebody is there to read it."""

    async def receive(self) -> dict[str, Any] | None:
        """Returns its next message, or None once it has ended."""

    async def wait(self) -> int:
        """Waits for its end and returns its exit code; negative for a signal."""

    def terminate(self) -> None:
        """Asks it to end; does nothing where it has."""

    def kill(self) -> None:
        """Ends it at once; does nothing where it has."""


class Spawn(Protocol):
    """Starts a worker's process."""

    async def __call__(self, placement: Placement) -> WorkerProcess:
        """Returns the process, which has not said anything yet."""


async def spawn(placement: Placement) -> WorkerProcess:
    """Starts a worker in a new interpreter: a fork would take along what gRPC and the NPU's runtime hold.

    It has a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone. Its log goes to our stderr.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mse_grad_server.worker",
            placement.worker,
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    link = await Link.open(ours)
    link.send(placement.as_json())
    return _Spawned(process, link)


class _Spawned:
    def __init__(self, process: asyncio.subprocess.Process, link: Link) -> None:
        self._process = process
        self._link = link

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        self._link.send(message)

    async def receive(self) -> dict[str, Any] | None:
        return await self._link.receive()

    async def wait(self) -> int:
        code = await self._process.wait()
        await self._link.close()
        return code

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
