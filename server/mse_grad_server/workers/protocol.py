"""Protocol between a worker and its supervisor: lines of JSON over a socket pair, and the values that they carry."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from mse_grad_server.process.state import State

__all__ = ["ControlChannel", "Endpoint", "Placement", "Report"]

# The longest line carries a worker's metrics: some hundred bytes a sample.
_MAX_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Endpoint:
    """Worker as GetServerInfo reports it to clients.

    Attributes:
        address: Address on which this worker alone listens.
        device: "cpu", or an NPU such as "npu:3".
        state: Current state of the worker.
    """

    address: str
    device: str
    state: State

    def as_json(self) -> dict[str, str]:
        """Returns the values that `of_json` reads."""
        return {"address": self.address, "device": self.device, "state": self.state.value}

    @classmethod
    def of_json(cls, values: dict[str, str]) -> Endpoint:
        """Returns the endpoint that `as_json` wrote."""
        return cls(values["address"], values["device"], State(values["state"]))


@dataclass(frozen=True)
class Placement:
    """First message of the supervisor: the name, the common port and the settings of a new worker.

    Attributes:
        worker: Name of the worker: "npu:3", "cpu:0".
        common_address: Port that all workers of the host share, or "".
        settings: Settings of the server, changed for this worker.
    """

    worker: str
    common_address: str
    settings: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """Message of a worker; without any of these values it is a heartbeat.

    Attributes:
        state: State of the worker; None if the message does not say.
        metrics_request: Number of the request for metrics that it answers; None if it answers none.
        families: The metrics, as the worker wrote them.
    """

    state: State | None = None
    metrics_request: int | None = None
    families: list[Any] = field(default_factory=list)

    @classmethod
    def of_json(cls, message: dict[str, Any]) -> Report:
        """Returns the report in a message; raises ValueError if no worker writes such a message."""
        state = State(message["state"]) if "state" in message else None
        if state is State.GONE:  # the supervisor alone knows
            raise ValueError("a worker that speaks is not gone")
        if "families" not in message:
            return cls(state)
        request, families = message.get("metrics"), message["families"]
        if not isinstance(request, int) or not isinstance(families, list):
            raise ValueError("an answer with metrics has the number of its request, and a list")
        return cls(state, request, families)


class ControlChannel:
    """One end of the socket pair; belongs to the event loop that opened it.

    Each process has one end. When either end closes, the other end receives None.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> ControlChannel:
        """Returns the channel over `end`, which it then owns."""
        return cls(*await asyncio.open_connection(sock=end, limit=_MAX_LINE_BYTES))

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; does nothing after the other end has closed."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or None after the other end has closed or has sent something else.

        A worker whose memory is damaged must not end the supervisor: without messages it counts as silent.
        """
        try:
            message = json.loads(await self._reader.readuntil())
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) else None

    async def close(self) -> None:
        """Closes the channel for both processes."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
