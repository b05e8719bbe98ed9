"""Frames on a connection whose other end the test holds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import grpc
import pytest

from mse_grad.frames import HEAD_BYTES, head
from mse_grad_server.direct import socket_stream
from mse_grad_server.direct.frames import Frames
from mse_grad_server.direct.lingering import _MOST_CONNECTIONS, Lingering
from mse_grad_server.direct.socket_stream import TryInline
from mse_grad_server.direct.wire import Wire
from mse_grad_server.errors import DeadlineExceeded
from support.server.fakes import FakeClock
from support.waiting import until

MOST_BYTES = 2**22
MANY = 20
STALL_S = 7.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection; the second belongs to the test."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def not_inline(message: bytes) -> bool:
    return False


def frames_on(connection: socket.socket, clock: FakeClock, *, try_handle_inline: TryInline = not_inline) -> Frames:
    return Frames(
        Wire(connection, Lingering()),
        clock,
        most_bytes=MOST_BYTES,
        stall_timeout_s=STALL_S,
        try_handle_inline=try_handle_inline,
    )


async def received(theirs: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = await asyncio.get_running_loop().sock_recv(theirs, min(2**16, size - len(got)))
        assert part
        got += part
    return bytes(got)


async def fill(frames: Frames) -> list[bytes]:
    """Sends without waiting until the kernel has no room, and returns what was taken."""
    messages: list[bytes] = []
    while not frames._unsent:
        messages.append(bytes([len(messages) % 251]) * 1_000_000)
        assert frames.write_now(messages[-1])
    return messages


async def test_a_client_that_still_sends_reads_everything_that_was_written_before_the_end(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    loop = asyncio.get_running_loop()
    frames = frames_on(ours, FakeClock())
    message = bytes(range(250)) * 4000  # the kernel takes all of it, and the client's side has room for a part
    frames.write_now(message)
    assert not frames._unsent
    frames.close()
    for _ in range(3):
        await loop.sock_sendall(theirs, b"more")
    assert await received(theirs, HEAD_BYTES + len(message)) == head(len(message)) + message
    assert await loop.sock_recv(theirs, 1) == b""
    theirs.close()
    await until(lambda: ours.fileno() == -1)


async def test_the_oldest_connection_that_is_read_on_makes_room() -> None:
    lingering = Lingering()
    pairs = [socket.socketpair() for _ in range(_MOST_CONNECTIONS + 3)]
    for ours, _ in pairs:
        ours.setblocking(False)
        lingering.close_later(ours)
    await until(lambda: pairs[2][0].fileno() == -1)
    assert all(ours.fileno() != -1 for ours, _ in pairs[3:])
    await lingering.close()
    assert all(ours.fileno() == -1 for ours, _ in pairs)
    for _, theirs in pairs:
        theirs.close()


async def test_what_the_kernel_has_no_room_for_is_sent_once_it_has(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    clock = FakeClock()
    frames = frames_on(ours, clock)
    messages = await fill(frames)
    assert not frames.write_now(b"no room")
    last = asyncio.ensure_future(frames.write(b"last"))
    for message in (*messages, b"last"):
        assert await received(theirs, HEAD_BYTES) == head(len(message))
        assert await received(theirs, len(message)) == message
    await last
    assert clock.pending == 0
    frames.close()


async def test_a_client_that_makes_no_room_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends
    clock = FakeClock()
    frames = frames_on(ours, clock)
    reading = asyncio.ensure_future(frames.read())
    await asyncio.sleep(0)
    await fill(frames)
    clock.advance(STALL_S)
    with pytest.raises(DeadlineExceeded, match="neither sent nor read whole within 7 s"):
        await reading
    frames.close()


async def test_a_writer_that_waits_for_room_goes_on_when_the_connection_is_closed(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = ends
    clock = FakeClock()
    frames = frames_on(ours, clock)
    await fill(frames)
    writing = asyncio.ensure_future(frames.write(b"never sent"))
    reading = asyncio.ensure_future(frames.read())
    await asyncio.sleep(0)
    frames.close()
    await writing
    assert await reading is grpc.aio.EOF
    assert clock.pending == 0


async def test_the_end_of_the_connection_is_the_end_of_the_messages(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    frames = frames_on(ours, FakeClock())
    theirs.sendall(head(3) + b"one" + head(5) + b"tw")
    theirs.close()
    assert await frames.read() == b"one"
    assert await frames.read() is grpc.aio.EOF
    frames.close()


async def test_a_client_that_is_gone_loses_its_answers_and_nothing_else(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    frames = frames_on(ours, FakeClock())
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    theirs.close()

    def is_reset() -> bool:
        return frames.write_now(b"lost") and not frames._unsent

    await until(is_reset)
    assert await frames.read() is grpc.aio.EOF
    frames.close()


class Turns:
    """Counts the turns of the event loop, and fills one."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._count()

    def fill(self) -> None:
        """Keeps the loop for as long as one connection may."""
        until_s = self._loop.time() + socket_stream._TURN_S
        while self._loop.time() < until_s:
            pass

    def _count(self) -> None:
        self.count += 1
        self._loop.call_soon(self._count)


async def test_messages_that_have_arrived_leave_others_their_turns(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    frames, turns = frames_on(ours, FakeClock()), Turns()
    theirs.sendall(MANY * head(0))
    for message in range(MANY):
        assert await frames.read() == b""
        assert turns.count >= message
        turns.fill()
    frames.close()


async def test_messages_that_are_handled_inline_leave_others_their_turns(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    turns = Turns()
    handled: list[int] = []

    def handle(message: bytes) -> bool:
        if message:
            return False
        turns.fill()
        handled.append(turns.count)
        return True

    frames = frames_on(ours, FakeClock(), try_handle_inline=handle)
    reading = asyncio.ensure_future(frames.read())
    await until(lambda: frames._has_reader)
    theirs.sendall(MANY * head(0) + head(4) + b"last")
    assert await reading == b"last"
    assert len(handled) == len(set(handled)) == MANY
    frames.close()


async def test_a_connection_that_is_closed_has_no_further_turn(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    turns = Turns()
    handled: list[bytes] = []

    def handle(message: bytes) -> bool:
        turns.fill()
        handled.append(message)
        asyncio.get_running_loop().call_soon(frames.close)
        return True

    frames = frames_on(ours, FakeClock(), try_handle_inline=handle)
    reading = asyncio.ensure_future(frames.read())
    await until(lambda: frames._has_reader)
    theirs.sendall(MANY * head(0))
    assert await reading is grpc.aio.EOF
    assert handled == [b""]
