"""A connection for requests, step by step: a raw stream whose messages are packets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc

from support.same_host.handover import RawHandover
from support.server.raw_stream import RawStream

__all__ = ["RawPackets", "open_packets"]


class _Connection:
    """The part of a grpc.aio call that a raw stream needs."""

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
    """A raw stream over the socket of a handover; the socket's owner closes it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.call = _Connection(connection)

    def send_at_once(self, *messages: bytes) -> None:
        """Sends messages before the server can answer."""
        for message in messages:
            self._socket.send(message)


async def open_packets(handover: RawHandover) -> RawPackets:
    """Opens a connection for requests and reads its first message."""
    result = await handover.ask_for_requests()
    assert not result.status.code, result.status
    packets = RawPackets(handover.socket)
    await packets.opened()
    return packets
