"""Process of a worker as the supervisor controls it: spawn, messages, signals, exit code."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from typing import Any, Protocol

from typing_extensions import override

from mse_grad_server.workers.protocol import ControlChannel, Placement

__all__ = ["Spawn", "WorkerProcess", "spawn"]


class WorkerProcess(Protocol):
    """Worker process and the control channel to it; belongs to the event loop."""

    @property
    def pid(self) -> int:
        """Process id."""

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; does nothing after the process has ended."""

    async def receive(self) -> dict[str, Any] | None:
        """Returns the next message of the process, or None after it has ended."""

    async def wait(self) -> int:
        """Waits until the process ends and returns its exit code; negative for a signal."""

    def terminate(self) -> None:
        """Asks the process to end; does nothing after it has ended."""

    def kill(self) -> None:
        """Kills the process; does nothing after it has ended."""


class Spawn(Protocol):
    """Function that starts a worker process."""

    async def __call__(self, placement: Placement) -> WorkerProcess:
        """Returns the process, which has not sent a message yet."""


async def spawn(placement: Placement) -> WorkerProcess:
    """Starts a worker in a new interpreter, because a fork would inherit threads of gRPC and of the NPU's runtime.

    The process gets its own session, so that Ctrl-C in a terminal reaches only the supervisor. It logs to our stderr.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mse_grad_server",
            "--worker",
            placement.worker,
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    channel = await ControlChannel.open(ours)
    channel.send(placement.as_json())
    return _Spawned(process, channel)


class _Spawned(WorkerProcess):
    def __init__(self, process: asyncio.subprocess.Process, channel: ControlChannel) -> None:
        self._process = process
        self._channel = channel

    @property
    @override
    def pid(self) -> int:
        return self._process.pid

    @override
    def send(self, message: dict[str, Any]) -> None:
        self._channel.send(message)

    @override
    async def receive(self) -> dict[str, Any] | None:
        return await self._channel.receive()

    @override
    async def wait(self) -> int:
        code = await self._process.wait()
        await self._channel.close()
        return code

    @override
    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()

    @override
    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
