from __future__ import annotations

import array
import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from mse_grad_server.errors import ServerError, SharedMemoryFull, SharedMemoryUnusable
from mse_grad_server.shared_memory.receiver import Received, Receiver
from support.same_host.descriptors import few_descriptors
from support.same_host.handover import memfd
from support.server.fakes import FakeClock
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is handed over on Linux alone")


class Receiving:
    """A receiver and the packets that it received."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.receiver = Receiver(self.clock)

    def begin(self, connection: socket.socket) -> asyncio.Future[Received | ServerError]:
        heard: asyncio.Future[Received | ServerError] = asyncio.get_running_loop().create_future()
        self.receiver.receive(connection, heard.set_result)
        return heard

    async def received(self, connection: socket.socket) -> Received | ServerError:
        return await asyncio.wait_for(self.begin(connection), PATIENCE_S)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiving]:
    made = Receiving()
    yield made
    made.receiver.close()
    assert made.clock.pending == 0


@contextmanager
def came(packet: bytes = b"packet", *descriptors: int) -> Iterator[socket.socket]:
    """Returns the server's end of a connection with an unread packet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
        yield ours


async def assert_receives(receiving: Receiving, packet: bytes = b"packet") -> None:
    with memfd(4096) as descriptor, came(packet, descriptor) as connection:
        heard = await receiving.received(connection)
        assert isinstance(heard, Received)
        assert heard.packet == packet
        (copy,) = heard.descriptors
        assert os.path.sameopenfile(copy, descriptor)
        os.close(copy)


async def test_a_packet_comes_with_its_descriptors() -> None:
    async with receiving() as receiving_:
        await assert_receives(receiving_)
        await assert_receives(receiving_, bytes(4096))


async def test_packets_that_come_at_once_are_received_in_turn() -> None:
    async with receiving() as receiving_:
        with memfd(4096) as descriptor, came(b"one", descriptor) as one, came(b"two", descriptor) as two:
            for packet, heard in [(b"one", receiving_.begin(one)), (b"two", receiving_.begin(two))]:
                received = await asyncio.wait_for(heard, PATIENCE_S)
                assert isinstance(received, Received)
                assert received.packet == packet
                os.close(received.descriptors[0])


async def test_a_descriptor_of_no_memory_is_refused_and_the_next_packet_is_received(tmp_path: Path) -> None:
    async with receiving() as receiving_:
        with (
            (tmp_path / "file").open("w+b") as file,
            memfd(4096) as descriptor,
            came(b"packet", descriptor, file.fileno()) as connection,
        ):
            assert isinstance(await receiving_.received(connection), SharedMemoryUnusable)
        await assert_receives(receiving_)


async def test_too_many_descriptors_are_refused() -> None:
    async with receiving() as receiving_:
        with memfd(4096) as descriptor, came(b"packet", *[descriptor] * 17) as connection:
            assert isinstance(await receiving_.received(connection), SharedMemoryUnusable)


async def test_a_connection_that_was_closed_while_it_waited_gets_nothing() -> None:
    async with receiving() as receiving_:
        with memfd(4096) as descriptor, came(b"one", descriptor) as one, came(b"two", descriptor) as two:
            first, second = receiving_.begin(one), receiving_.begin(two)
            two.close()
            received = await asyncio.wait_for(first, PATIENCE_S)
            assert isinstance(received, Received)
            os.close(received.descriptors[0])
            assert await asyncio.wait_for(second, PATIENCE_S) == Received(b"", [])


@pytest.mark.parametrize("program", ["", "import time; time.sleep(1000)"], ids=["ends", "hangs"])
async def test_a_process_that_does_not_answer_is_replaced(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "program.py"
    other.write_text(program)
    async with receiving() as receiving_:
        with memfd(4096) as descriptor, came(b"packet", descriptor) as connection:
            with monkeypatch.context() as patched:
                patched.setattr("mse_grad_server.shared_memory.receiver._PROGRAM", str(other))
                heard = receiving_.begin(connection)
            if program:
                receiving_.clock.advance(11)
            assert isinstance(await asyncio.wait_for(heard, PATIENCE_S), SharedMemoryFull)
        await assert_receives(receiving_)


async def test_without_a_free_descriptor_none_is_received() -> None:
    async with receiving() as receiving_:
        with memfd(4096) as descriptor, came(b"packet", descriptor) as connection, few_descriptors(0):
            heard = await receiving_.received(connection)
            assert isinstance(heard, SharedMemoryFull)
            assert "Too many open files" in str(heard)
        await assert_receives(receiving_)
