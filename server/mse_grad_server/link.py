"""What a worker and its supervisor say to each other: lines of JSON over a pair of sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

__all__ = ["Link"]

# The longest line is a worker's metrics: some hundred bytes a sample.
_MAX_LINE_BYTES = 64 * 2**20


class Link:
    """One end, in the event loop that opened it. Each process has one, and the end of either is the end of both."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Link:
        """Returns the link over `end`, which it then owns."""
        return cls(*await asyncio.open_connection(sock=end, limit=_MAX_LINE_BYTES))

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; does nothing once the other side has ended."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or None once the other side has ended."""
        try:
            line = await self._reader.readuntil()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    async def close(self) -> None:
        """Ends both sides."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
