"""TLS on sockets that do not block, against itself and against the standard library's."""

from __future__ import annotations

import random
import select
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mse_grad.frames import drop_sent
from mse_grad.tensor import Buffer
from mse_grad.tls_socket import BATCH_BYTES, TlsSocket
from support.server.certificates import contexts_in
from support.waiting import PATIENCE_S

RECORD_BYTES = 16 * 1024


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return contexts_in(tmp_path_factory.mktemp("tls"))


class Counting:
    """A socket whose system calls are counted."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.sends = self.receives = 0

    def send(self, *arguments: Any) -> int:
        self.sends += 1
        return self.connection.send(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self.receives += 1
        return self.connection.recv_into(*arguments)


class Pair:
    """Both ends of a connection, after the handshake."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        self.ours, self.theirs = map(Counting, socket.socketpair())
        for one in (self.ours, self.theirs):
            one.connection.setblocking(False)
        client, server = contexts
        self.client = TlsSocket(self.ours, client, server_hostname="localhost")  # type: ignore[arg-type]
        self.server = TlsSocket(self.theirs, server, server_side=True)  # type: ignore[arg-type]
        is_done = {self.client: False, self.server: False}
        while not all(is_done.values()):
            for end in is_done:
                is_done[end] = is_done[end] or end.shake_hands()

    def close(self) -> None:
        self.ours.connection.close()
        self.theirs.connection.close()


@pytest.fixture
def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Pair]:
    pair = Pair(contexts)
    yield pair
    pair.close()


def carried(source: TlsSocket, target: TlsSocket, buffers: list[Buffer], *, room_bytes: int = 2**20) -> bytes:
    """Returns what arrives at `target` while `source` sends `buffers`, as the two wires do it."""
    size_bytes = sum(map(len, buffers))
    unsent, came, room = list(buffers), bytearray(), memoryview(bytearray(room_bytes))
    while len(came) < size_bytes:
        if unsent:
            drop_sent(unsent, source.send(unsent))
        found = target.receive_into(room)
        came += room[: found or 0]
    assert not unsent
    assert not source.has_unsent
    return bytes(came)


@pytest.mark.parametrize("room_bytes", [100, RECORD_BYTES, 2**20])
@pytest.mark.parametrize(
    "sizes",
    [
        [1],
        [4, 60],
        [0, 5, 0],
        [BATCH_BYTES],
        [4, BATCH_BYTES],
        [4, 30, 350_000, 3, 350_000],
        [10] * 20_000,
        [3_000_000],
    ],
    ids=lambda sizes: f"{len(sizes)}-of-{max(sizes)}",
)
def test_buffers_arrive_as_they_were(pair: Pair, sizes: list[int], room_bytes: int) -> None:
    source = random.Random(sum(sizes))
    buffers: list[Buffer] = [memoryview(source.randbytes(size)) for size in sizes]
    for sender, receiver in ((pair.client, pair.server), (pair.server, pair.client)):
        assert carried(sender, receiver, buffers, room_bytes=room_bytes) == b"".join(buffers)


def test_a_megabyte_takes_a_system_call_for_several_records(pair: Pair) -> None:
    for end in (pair.ours, pair.theirs):
        end.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        end.sends = end.receives = 0
    assert carried(pair.client, pair.server, [bytes(2**20)]) == bytes(2**20)
    assert pair.ours.sends < 2**20 / RECORD_BYTES
    assert pair.theirs.receives < 2**20 / RECORD_BYTES


def test_bytes_without_room_in_the_kernel_count_as_sent_once_it_has_them(pair: Pair) -> None:
    data = random.Random(1).randbytes(8 * 2**20)
    unsent: list[Buffer] = [data]
    while sent := pair.client.send(unsent):
        drop_sent(unsent, sent)
    assert pair.client.has_unsent
    assert pair.client.send(unsent) == 0
    came = len(data) - len(unsent[0])
    room = memoryview(bytearray(len(data)))
    filled = 0
    while filled < came or unsent:
        filled += pair.server.receive_into(room[filled:]) or 0
        if unsent:
            drop_sent(unsent, pair.client.send(unsent))
    while filled < len(data):
        filled += pair.server.receive_into(room[filled:]) or 0
    assert room == data


def test_nothing_that_has_arrived_is_forgotten_if_the_room_is_small(pair: Pair) -> None:
    pair.client.send([b"abcdef"])
    room = memoryview(bytearray(4))
    assert pair.server.receive_into(room) == 4
    assert pair.server.may_hold_more
    assert pair.server.receive_into(room) == 2
    assert not pair.server.may_hold_more
    assert pair.server.receive_into(room) is None


def test_the_end_of_the_connection_comes_after_its_last_bytes(pair: Pair) -> None:
    room = memoryview(bytearray(100))
    assert pair.client.receive_into(room) is None  # the tickets, which unread would reset the connection
    pair.client.send([b"last"])
    pair.ours.connection.close()
    assert pair.server.receive_into(room) == 4
    assert pair.server.receive_into(room) == 0
    assert pair.server.receive_into(room) == 0


def test_bytes_that_are_no_tls_are_an_error(pair: Pair) -> None:
    pair.ours.connection.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        pair.server.receive_into(memoryview(bytearray(100)))


def test_a_handshake_that_fails_tells_the_other_side(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = contexts
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as threads:
        ours.settimeout(PATIENCE_S)
        theirs.settimeout(PATIENCE_S)
        other = TlsSocket(theirs, server, server_side=True)
        accepting = threads.submit(other.shake_hands)
        with pytest.raises(ssl.SSLCertVerificationError, match=r"another\.name"):
            TlsSocket(ours, client, server_hostname="another.name").shake_hands()
        with pytest.raises(ssl.SSLError, match=r"(?i)alert bad certificate"):
            accepting.result(PATIENCE_S)


def test_it_speaks_with_a_socket_of_the_standard_library(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = contexts
    ours, theirs = socket.socketpair()
    data = random.Random(2).randbytes(500_000)

    def echo() -> None:
        with server.wrap_socket(theirs, server_side=True) as other:
            other.sendall(other.recv(10))
            got = b""
            while len(got) < len(data):
                got += other.recv(2**20)
            other.sendall(got)

    with ours, ThreadPoolExecutor(1) as threads:
        ours.settimeout(PATIENCE_S)
        theirs.settimeout(PATIENCE_S)
        echoing = threads.submit(echo)
        tls = TlsSocket(ours, client, server_hostname="localhost")
        assert tls.shake_hands()
        room = memoryview(bytearray(len(data)))
        assert tls.send([b"hello"]) == 5
        while not tls.receive_into(room):  # tickets come first
            select.select([ours], [], [], PATIENCE_S)
        assert bytes(room[:5]) == b"hello"
        assert tls.send([data]) == len(data)
        filled = 0
        while filled < len(data):
            filled += tls.receive_into(room[filled:]) or 0
        echoing.result(PATIENCE_S)
        assert room == data
