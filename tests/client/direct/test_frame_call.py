"""A call over a TCP connection whose other end the test holds, plain and over TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest

from mse_grad.frames import HEAD_BYTES, head
from mse_grad.tensor import Buffer
from mse_grad_client.direct.frame_call import FrameCall
from mse_grad_client.direct.wire import TlsWire, Wire, connect
from support.server.certificates import contexts_in
from support.waiting import PATIENCE_S

MOST_BYTES = 2**22


def framed(message: bytes) -> bytes:
    return head(len(message)) + message


class Talk:
    """A call, the messages that it is to send, and the server's end of its connection, which blocks."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> None:
        self.outgoing: deque[list[Buffer]] = deque()
        self.wire, self.theirs = _wires(contexts)
        self.theirs.settimeout(PATIENCE_S)
        self.wire.begin()
        self.call = FrameCall(self.wire, self._pull, most_bytes=MOST_BYTES)

    def _pull(self) -> list[Buffer] | None:
        return self.outgoing.popleft() if self.outgoing else None

    def received(self) -> bytes:
        """Returns the next message at the server's end."""
        size = int.from_bytes(self._exactly(HEAD_BYTES), "big")
        return self._exactly(size)

    def close(self) -> None:
        self.wire.close()
        self.theirs.close()

    def _exactly(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            part = self.theirs.recv(size - len(got))
            assert part, "the client has closed the connection"
            got += part
        return bytes(got)


def _wires(contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> tuple[Wire, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = connect(*listener.getsockname(), timeout_s=PATIENCE_S)
        theirs, _ = listener.accept()
    if contexts is None:
        return Wire(ours), theirs
    client, server = contexts
    with ThreadPoolExecutor(1) as threads:
        accepting = threads.submit(server.wrap_socket, theirs, server_side=True)
        return TlsWire(ours, client, server_name="localhost"), accepting.result(PATIENCE_S)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return contexts_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["plain", "tls"])
def talk(request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Talk]:
    talk = Talk(contexts if request.param == "tls" else None)
    yield talk
    talk.close()


def test_each_message_stands_behind_its_length_each_way(talk: Talk) -> None:
    talk.outgoing.extend([[b"on", b"e"], [b""], [memoryview(b"two")]])
    talk.call.wake()
    assert [talk.received() for _ in range(3)] == [b"one", b"", b"two"]
    for answer in (b"first", b"", bytes(100_000), b"last"):
        talk.theirs.sendall(framed(answer))
        assert next(talk.call) == answer
    assert not talk.call.is_sending


def test_messages_that_came_together_are_read_one_by_one(talk: Talk) -> None:
    answers = [bytes([number]) * number for number in range(200)]
    talk.theirs.sendall(b"".join(map(framed, answers)))
    assert [next(talk.call) for _ in answers] == answers


def test_a_message_of_thousands_of_buffers_is_sent(talk: Talk) -> None:
    talk.outgoing.append([bytes([number % 251]) * 3 for number in range(3000)])
    talk.call.wake()
    assert talk.received() == b"".join(bytes([number % 251]) * 3 for number in range(3000))


def test_what_the_kernel_has_no_room_for_is_sent_by_the_reader(talk: Talk) -> None:
    messages = [bytes([number]) * 1_000_003 for number in range(24)]
    talk.outgoing.extend([memoryview(message)[:17], memoryview(message)[17:]] for message in messages)
    talk.call.wake()
    assert talk.call.is_sending

    def answer() -> list[bytes]:
        came = [talk.received() for _ in messages]
        talk.theirs.sendall(framed(b"all of it"))
        return came

    with ThreadPoolExecutor(1) as threads:
        came = threads.submit(answer)
        assert next(talk.call) == b"all of it"
        assert came.result(PATIENCE_S) == messages
    assert not talk.call.is_sending


def test_messages_are_read_while_the_kernel_has_no_room_to_send(talk: Talk) -> None:
    talk.outgoing.extend([bytes(1_000_000)] for _ in range(24))
    talk.call.wake()
    talk.theirs.sendall(framed(b"first read this"))
    assert next(talk.call) == b"first read this"
    assert talk.call.is_sending


def test_the_end_of_the_other_side_ends_it(talk: Talk) -> None:
    talk.theirs.sendall(framed(b"last") + head(10) + b"cut")
    talk.theirs.close()
    assert next(talk.call) == b"last"
    for _ in range(2):
        with pytest.raises((StopIteration, grpc.RpcError)):
            next(talk.call)
    talk.outgoing.append([b"too late"])
    talk.call.wake()


def test_a_message_that_is_too_large_ends_it(talk: Talk) -> None:
    talk.theirs.sendall(head(MOST_BYTES + 1))
    with pytest.raises(grpc.RpcError, match="a message of 4194305 bytes was announced") as caught:
        next(talk.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_connection_that_is_closed_here_is_unavailable(talk: Talk) -> None:
    talk.wire.close()
    with pytest.raises(grpc.RpcError) as caught:
        next(talk.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    talk.call.cancel()


def test_cancelling_wakes_the_thread_that_reads(talk: Talk) -> None:
    reading = threading.Event()

    def read() -> bytes:
        reading.set()
        try:
            return next(talk.call)
        except (StopIteration, grpc.RpcError):  # which of them, the library of TLS decides
            return b""

    with ThreadPoolExecutor(1) as threads:
        got = threads.submit(read)
        assert reading.wait(PATIENCE_S)
        talk.call.cancel()
        assert got.result(PATIENCE_S) == b""


def test_finishing_closes_this_side_alone() -> None:
    talk = Talk(None)
    talk.call.finish()
    assert talk.theirs.recv(10) == b""
    talk.theirs.sendall(framed(b"last"))
    assert next(talk.call) == b"last"
    talk.close()


def test_bytes_that_a_thread_sent_without_noting_how_many_are_the_last(talk: Talk) -> None:
    """An interrupt may come between the two: the rest of the message would be sent from the wrong place."""

    class Interrupt(BaseException):
        pass

    send = talk.wire.send

    def interrupted(buffers: list[Buffer]) -> int:
        send(buffers)
        raise Interrupt

    talk.wire.send = interrupted  # type: ignore[method-assign,assignment]
    talk.outgoing.append([b"once"])
    with pytest.raises(Interrupt):
        talk.call.wake()
    talk.wire.send = send  # type: ignore[method-assign]
    talk.outgoing.append([b"never"])
    talk.call.wake()
    assert talk.received() == b"once"
    assert talk.theirs.recv(10) == b""


def test_a_handshake_takes_no_longer_than_the_time_out_of_its_socket(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    ours, theirs = socket.socketpair()
    has_ended = threading.Event()

    def drip() -> bool:
        theirs.send(b"\x16\x03\x03\x40\x00")  # the head of a record of 16 KiB
        give_up_s = time.monotonic() + PATIENCE_S
        with suppress(OSError):
            while not has_ended.wait(0.01) and time.monotonic() < give_up_s:
                theirs.send(b"\x02")
        return time.monotonic() < give_up_s

    with theirs, ThreadPoolExecutor(1) as threads:
        ours.settimeout(0.2)
        dripping = threads.submit(drip)
        with pytest.raises(TimeoutError):
            TlsWire(ours, contexts[0], server_name="localhost")
        has_ended.set()
        assert dripping.result(2 * PATIENCE_S)
    assert ours.fileno() == -1
