"""A direct connection, step by step: a raw stream whose messages stand behind their lengths."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from mse_grad.frames import HEAD_BYTES, head
from mse_grad.v1 import mse_grad_pb2 as pb
from support.server.raw_stream import RawStream
from support.waiting import PATIENCE_S

__all__ = ["RawDirect", "framed", "greeting"]


def framed(message: bytes) -> bytes:
    """Returns a message behind its length."""
    return head(len(message)) + message


def greeting(opened: pb.StreamOpened, **other: Any) -> bytes:
    """Returns the framed greeting for the stream that `opened` began, or one with other fields."""
    right = {"instance_id": opened.instance_id, "secret": opened.direct.secret}
    return framed(pb.DirectGreeting(**{**right, **other}).SerializeToString())


class _Connection:
    """The part of a grpc.aio call that a raw stream needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def write(self, message: bytes) -> None:
        self.writer.write(framed(message))
        await self.writer.drain()

    async def read(self) -> Any:
        try:
            size = int.from_bytes(await self._reader.readexactly(HEAD_BYTES), "big")
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def done_writing(self) -> None:
        self.writer.write_eof()


class RawDirect(RawStream):
    """A raw stream over a TCP connection; `hang_up` closes it."""

    def __init__(self, connection: _Connection) -> None:
        self.call = connection

    @classmethod
    async def connect(cls, port: int, data: bytes = b"", **options: Any) -> RawDirect:
        """Connects, sends `data`, and reads nothing.

        Args:
            port: Port of this machine.
            data: Bytes to send.
            options: Options of asyncio.open_connection, such as ssl.
        """
        connection = cls(_Connection(*await asyncio.open_connection("127.0.0.1", port, **options)))
        await connection.send_raw(data)
        return connection

    @classmethod
    async def beside(cls, opened: pb.StreamOpened, **options: Any) -> RawDirect:
        """Connects beside the stream that `opened` began, and reads the first message."""
        direct = await cls.connect(opened.direct.port, greeting(opened), **options)
        await direct.opened()
        return direct

    async def send_raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.call.writer.write(data)
        await self.call.writer.drain()

    async def receive_go_away(self) -> pb.GoAway:
        """Returns the GoAway in the next message, after which the server must close the connection."""
        go_away = (await self.receive()).go_away
        assert go_away is not None
        await asyncio.wait_for(self.receive_end(), PATIENCE_S)
        return go_away

    def hang_up(self) -> None:
        """Closes the connection."""
        self.call.writer.close()
