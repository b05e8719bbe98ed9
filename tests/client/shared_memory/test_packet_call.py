from __future__ import annotations

import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from typing_extensions import override

from mse_grad_client.shared_memory.local_socket import bound_receives
from mse_grad_client.shared_memory.packet_call import PacketCall
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="packets of a unix socket need Linux")

MOST_BYTES = 192 * 1024


class Watched(socket.socket):
    """A socket that tells when a thread begins to receive."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(fileno=connection.detach())
        self.receives = threading.Event()

    @override
    def recv_into(self, *arguments: Any) -> int:
        self.receives.set()
        return super().recv_into(*arguments)


class Talk:
    """A call, the messages that it is to send, and the server's end of its connection."""

    def __init__(self) -> None:
        self.outgoing: deque[bytes] = deque()
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.call = PacketCall(self.ours, self._pull, max_packet_bytes=MOST_BYTES)

    def watch(self) -> Watched:
        """Replaces the connection of the call by one that tells when a thread begins to receive."""
        self.ours = watched = Watched(self.ours)
        self.call = PacketCall(watched, self._pull, max_packet_bytes=MOST_BYTES)
        return watched

    def _pull(self) -> bytes | None:
        return self.outgoing.popleft() if self.outgoing else None

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.close()


def test_each_message_is_a_packet_each_way(talk: Talk) -> None:
    talk.outgoing.extend([b"one", b"two"])
    talk.call.wake()
    assert [talk.theirs.recv(100), talk.theirs.recv(100)] == [b"one", b"two"]
    for answer in (b"first", bytes(MOST_BYTES)):
        talk.theirs.send(answer)
        assert next(talk.call) == answer
    assert not talk.call.is_sending


def test_packets_that_a_server_sent_before_its_end_are_read_although_it_left_packets_unread(talk: Talk) -> None:
    talk.outgoing.append(b"unread")
    talk.call.wake()
    talk.theirs.send(b"go away")
    talk.theirs.close()
    assert next(talk.call) == b"go away"
    with pytest.raises(StopIteration):
        next(talk.call)


def test_packets_that_the_kernel_has_no_room_for_are_sent_by_the_reader(talk: Talk) -> None:
    packets = [bytes([number]) * 60_000 for number in range(32)]
    talk.outgoing.extend(packets)
    talk.call.wake()
    assert talk.call.is_sending

    def answer() -> list[bytes]:
        came = [talk.theirs.recv(MOST_BYTES) for _ in packets]
        talk.theirs.send(b"all of it")
        return came

    with ThreadPoolExecutor(1) as threads:
        came = threads.submit(answer)
        assert next(talk.call) == b"all of it"
        assert came.result(20) == packets
    assert not talk.call.is_sending


def test_a_packet_that_found_no_room_while_the_reader_waited_is_sent_before_an_answer_comes(talk: Talk) -> None:
    ours = talk.watch()
    bound_receives(ours)
    packets = [bytes([number]) * 60_000 for number in range(32)]
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(next, talk.call)
        assert ours.receives.wait(PATIENCE_S)
        talk.outgoing.extend(packets)
        talk.call.wake()
        assert talk.call.is_sending
        talk.theirs.settimeout(PATIENCE_S)
        try:
            assert [talk.theirs.recv(MOST_BYTES) for _ in packets] == packets
        finally:
            talk.theirs.send(b"answer")
        assert reading.result(PATIENCE_S) == b"answer"


def test_packets_are_read_while_the_kernel_has_no_room_to_send(talk: Talk) -> None:
    talk.outgoing.extend(bytes(60_000) for _ in range(32))
    talk.call.wake()
    talk.theirs.send(b"first read this")
    assert next(talk.call) == b"first read this"
    assert talk.call.is_sending


def test_the_end_of_the_other_side_ends_it(talk: Talk) -> None:
    talk.theirs.send(b"last")
    talk.theirs.close()
    assert next(talk.call) == b"last"
    for _ in range(2):
        with pytest.raises((StopIteration, grpc.RpcError)):
            next(talk.call)
    talk.outgoing.append(b"too late")
    talk.call.wake()


def test_a_connection_that_is_closed_here_is_unavailable(talk: Talk) -> None:
    talk.ours.close()
    with pytest.raises(grpc.RpcError) as caught:
        next(talk.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    talk.call.cancel()


def test_finishing_closes_this_side_alone(talk: Talk) -> None:
    talk.call.finish()
    assert talk.theirs.recv(10) == b""
    talk.theirs.send(b"last")
    assert next(talk.call) == b"last"


def test_cancelling_wakes_the_thread_that_reads(talk: Talk) -> None:
    reading = threading.Event()

    def read() -> list[bytes]:
        reading.set()
        return list(iter(lambda: next(talk.call, b""), b""))

    with ThreadPoolExecutor(1) as threads:
        got = threads.submit(read)
        assert reading.wait(20)
        talk.call.cancel()
        assert got.result(20) == []
