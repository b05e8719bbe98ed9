"""A connection for requests, step by step: a raw stream whose messages are packets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc

from support.handover import RawHandover
from support.in_process import RawStream

__all__ = ["RawPackets", "open_packets"]


class _Connection:
    """What a raw stream needs of a call of grpc.aio."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def write(self, message: bytes) -> None:
        await self._loop.sock_sendall(self._connection, message)

    async def read(self) -> Any:
        return await self._loop.sock_recv(self._connection, 1 << 20) or grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def done_writing(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)


class RawPackets(RawStream):
    """A raw stream over the socket of a handover, which it leaves to its owner."""

    def __init__(self, connection: socket.socket) -> None:
        self.call = _Connection(connection)


async def open_packets(handover: RawHandover) -> RawPackets:
    """Makes a new connection one for requests; returns it with its first message read."""
    result = await handover.ask_for_requests()
    assert not result.status.code, result.status
    packets = RawPackets(handover.socket)
    await packets.opened()
    return packets
