"""Descriptors whose closing takes an hour, sent to a server by every way to its unix sockets: nobody else waits."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest

from mse_grad.address import MEMORY_SUFFIX
from mse_grad.descriptors import can_refuse_descriptors
from mse_grad.reasons import Reason
from mse_grad_client import ClientOptions, MseGradClient
from support.same_host.handover import RawHandover, memfd
from support.same_host.lingering import Lingering, lingering
from support.same_host.packets import open_packets
from support.server.raw_stream import RawStream, reason_of
from support.server.server_process import ServerProcess, running_server
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are passed on Linux")

PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("s")
    with running_server(listen=f"unix:{folder}/s") as process:
        yield process


def path_of(server: ServerProcess) -> str:
    return server.address.removeprefix("unix:")


async def ended(connection: socket.socket) -> None:
    """Reads until the server has closed its side."""
    connection.setblocking(False)
    try:
        while await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
            pass
    except ConnectionResetError:
        pass


@contextmanager
def stranger(server: ServerProcess, it: Lingering, *packets: bytes) -> Iterator[socket.socket]:
    """Sends packets without a secret, the last one with the descriptor, as far as the server takes them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path_of(server) + MEMORY_SUFFIX)
        with suppress(BrokenPipeError):  # the server may be faster
            for packet in packets[:-1]:
                connection.send(packet)
            it.send_last(connection, packets[-1])
        yield connection


async def as_a_stranger(server: ServerProcess, it: Lingering) -> None:
    with stranger(server, it, b"\xff", b"\xff") as connection:
        await ended(connection)


async def behind_an_empty_packet(server: ServerProcess, it: Lingering) -> None:
    with stranger(server, it, b"", b"", b"", b"") as connection:  # each looks like the end of the connection
        await ended(connection)


async def and_is_gone(server: ServerProcess, it: Lingering) -> None:
    with stranger(server, it, b"\xff", b"\xff"):
        pass


async def with_a_secret(server: ServerProcess, use: Callable[[RawHandover], Awaitable[None]]) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream = RawStream(channel)
        opened = (await stream.opened()).opened
        assert opened is not None
        with RawHandover(opened) as handover:
            await use(handover)


async def instead_of_memory(server: ServerProcess, it: Lingering) -> None:
    async def use(handover: RawHandover) -> None:
        with memfd(PAGE_BYTES) as descriptor:
            assert not (await handover.hand_over([1], [descriptor])).status.code
        it.send_last(handover.socket, b"\xff")
        assert reason_of((await handover.receive()).status) is Reason.SHARED_MEMORY_UNUSABLE

    await with_a_secret(server, use)


async def as_a_request(server: ServerProcess, it: Lingering) -> None:
    async def use(handover: RawHandover) -> None:
        packets = await open_packets(handover)
        try:
            it.send_last(handover.socket, b"\xff")
        except PermissionError:  # the kernel refuses it
            assert can_refuse_descriptors()
        else:
            await packets.receive_end()

    await with_a_secret(server, use)


async def at_once_with_the_question_for_requests(server: ServerProcess, it: Lingering) -> None:
    async def use(handover: RawHandover) -> None:
        handover.socket.send(handover.question_for_requests())
        try:
            it.send_last(handover.socket, b"\xff")
        except PermissionError:  # the server was faster, and the kernel refuses it
            assert can_refuse_descriptors()
        else:
            await ended(handover.socket)

    await with_a_secret(server, use)


async def to_grpc(server: ServerProcess, it: Lingering) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(path_of(server))
        with pytest.raises(PermissionError):
            it.send_last(caller, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


WAYS = [
    as_a_stranger,
    behind_an_empty_packet,
    and_is_gone,
    instead_of_memory,
    as_a_request,
    at_once_with_the_question_for_requests,
    pytest.param(
        to_grpc, marks=pytest.mark.skipif(not can_refuse_descriptors(), reason="Linux refuses them from 6.16 on")
    ),
]


@pytest.mark.parametrize("send", WAYS)
def test_nobody_waits_for_a_descriptor_to_close(
    server: ServerProcess, send: Callable[[ServerProcess, Lingering], Awaitable[None]]
) -> None:
    given = np.ones((3, 1000), np.float32)
    options = ClientOptions(shared_memory=False, timeout_s=PATIENCE_S)
    with MseGradClient(server.address, options=options) as client, lingering() as it:
        assert (client.compute(*given) == 0).all()
        asyncio.run(asyncio.wait_for(send(server, it), PATIENCE_S))
        assert (client.compute(*given) == 0).all()
