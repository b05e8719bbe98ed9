"""A relay between a client and a server, which a test may stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Relay", "relay"]


class Relay:
    """Forwards bytes in both directions, unless it is held; made by `relay`.

    Attributes:
        address: Address to connect to.
        connections: How many were made.
    """

    def __init__(self, target: str) -> None:
        self.address = ""
        self.connections = 0
        self._host, _, self._port = target.rpartition(":")
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._passing: set[asyncio.Task[None]] = set()

    def hold(self) -> None:
        """Stops reading and forwarding, like a machine that is suspended."""
        self._goes_on.clear()

    def go_on(self) -> None:
        """Continues to forward, first the bytes that arrived meanwhile."""
        self._goes_on.set()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            self._passing.add(asyncio.create_task(self._pass(source, sink)))

    async def close(self) -> None:
        """Ends every connection."""
        for passing in self._passing:
            passing.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._goes_on.wait()
                data = await source.read(1 << 16)
                await self._goes_on.wait()
                if not data:
                    return
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            return  # the other direction ends, too
        finally:
            sink.close()


@asynccontextmanager
async def relay(target: str) -> AsyncIterator[Relay]:
    """Runs a relay to `target`, "host:port"."""
    passing = Relay(target)
    server = await asyncio.start_server(passing.connect, "127.0.0.1", 0)
    passing.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield passing
    finally:
        server.close()
        await passing.close()
