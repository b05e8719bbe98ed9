"""Clients of servers that offer shared memory and then break the offer."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace
from typing import NoReturn

import pytest

from mse_grad.codec import Header, StreamRequest, decode_stream_request
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import (
    ClientOptions,
    DeadlineExceeded,
    InternalError,
    MseGradClient,
    ResourceExhausted,
    RetryOptions,
)
from support.client.scripted_server import Script, ScriptedServer, answer, opened, refused
from support.same_host.memory_listener import MemoryListener, refusing, taking
from support.values import expected, operands
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

COUNT = 100_000
ONCE = ClientOptions(retry=RetryOptions(max_attempts=1))


def answering(shared: bytes | None) -> Script:
    """Computes operands in messages; answers those in shared memory with `shared`, or never."""

    def script(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
        headers: dict[int, Header] = {}
        for request in requests:
            if not any(chunk.shared for chunk in request.chunks):
                yield answer(headers, request)
            elif shared is not None:
                yield shared.replace(b"\x08\x01", b"\x08" + bytes([request.chunks[0].id]), 1)

    return script


def result(**fields: object) -> bytes:
    return pb.StreamGradientsResponse(results=[pb.GradientResult(id=1, **fields)]).SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reason", [Reason.SEGMENT_UNKNOWN, Reason.SHARED_RANGE_INVALID], ids=lambda reason: reason.name
)
def test_a_server_that_lost_the_memory_gets_the_operands_in_messages(reason: Reason) -> None:
    given = operands((COUNT,))
    with (
        MemoryListener() as listener,
        ScriptedServer(answering(refused(1, reason)), offer=listener.offer) as server,
        MseGradClient(server.address) as client,
    ):
        for _ in range(3):
            assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert sum(any(chunk.shared for chunk in request.chunks) for request in server.requests) == 1


def test_a_server_that_maps_nothing_gets_the_operands_in_messages() -> None:
    given = operands((COUNT,))
    with (
        MemoryListener(refusing(lambda packet: bool(packet.segments))) as listener,
        ScriptedServer(answering(None), offer=listener.offer) as server,
        MseGradClient(server.address) as client,
    ):
        assert client.compute(*given).tobytes() == expected(*given).tobytes()


def test_a_server_on_this_host_shares_memory_whatever_its_address_looks_like() -> None:
    given = operands((COUNT,))
    with (
        MemoryListener() as listener,
        ScriptedServer(answering(result()), offer=listener.offer) as server,
        MseGradClient(server.address.replace("127.0.0.1", "0.0.0.0")) as client,
    ):
        client.compute(*given, timeout_s=20)
    assert all(chunk.shared for request in server.requests for chunk in request.chunks)


def test_an_offer_of_a_missing_socket_is_ignored() -> None:
    given = operands((COUNT,))
    offer = pb.SharedMemoryOffer(socket_name="mse-grad-nobody", secret=b"secret", max_mapped_bytes=2**40)
    with ScriptedServer(answering(None), offer=offer) as server, MseGradClient(server.address) as client:
        assert client.compute(*given).tobytes() == expected(*given).tobytes()


@pytest.mark.parametrize("call", ["compute", "server_info"])
def test_a_call_waits_no_longer_for_shared_memory_than_it_has_time(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr("mse_grad_client.shared_memory.handover._ANSWER_TIMEOUT_S", PATIENCE_S)
    given = operands((COUNT,))
    began, goes_on = Event(), Event()
    in_time: list[bool] = []

    def late(packet: pb.SharedMemoryHandover) -> bytes:
        began.set()
        in_time.append(goes_on.wait(PATIENCE_S))
        return taking(packet)

    with (
        MemoryListener(late) as listener,
        ScriptedServer(answering(result()), offer=listener.offer) as server,
        MseGradClient(server.address) as client,
    ):
        server.info = lambda: pb.GetServerInfoResponse(instance_id="scripted")
        if call == "compute":
            with pytest.raises(DeadlineExceeded):
                client.compute(*given, timeout_s=0.2)
        else:
            assert client.server_info(timeout_s=0.2).transport == "stream"
        assert began.wait(PATIENCE_S)
        goes_on.set()
        client.compute(*given)
    assert all(in_time)
    assert all(chunk.shared for chunk in server.requests[-1].chunks)


def test_other_errors_are_the_callers() -> None:
    with (
        MemoryListener() as listener,
        ScriptedServer(answering(refused(1, Reason.SERVER_BUSY)), offer=listener.offer) as server,
        MseGradClient(server.address, options=ONCE) as client,
    ):
        with pytest.raises(ResourceExhausted) as raised:
            client.compute(*operands((COUNT,)))
        assert raised.value.reason is Reason.SERVER_BUSY


def test_elements_in_the_answer_to_a_chunk_in_shared_memory_break_the_contract() -> None:
    with (
        MemoryListener() as listener,
        ScriptedServer(answering(result(y=bytes(400_000))), offer=listener.offer) as server,
        MseGradClient(server.address, options=ONCE) as client,
        pytest.raises(InternalError, match="in shared memory"),
    ):
        client.compute(*operands((COUNT,)))


class InPackets:
    """Serves `count` requests in packets, each with one answer, then closes the connection."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.came = 0

    def __call__(self, connection: socket.socket) -> None:
        connection.send(opened())
        headers: dict[int, Header] = {}
        while self.came < self.count:
            packet = connection.recv(1 << 20)
            if not packet:
                return
            self.came += 1
            connection.send(answer(headers, decode_stream_request(packet)))


def test_small_gradients_go_in_packets() -> None:
    given = operands((1000,))
    in_packets = InPackets(100)
    with (
        MemoryListener(requests=in_packets) as listener,
        ScriptedServer(answering(None), offer=listener.offer) as server,
        MseGradClient(server.address) as client,
    ):
        for _ in range(5):
            assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert (in_packets.came, server.requests) == (5, [])


def test_when_the_packets_end_the_stream_takes_over() -> None:
    given = operands((1000,))
    in_packets = InPackets(2)
    with (
        MemoryListener(requests=in_packets) as listener,
        ScriptedServer(answering(None), offer=listener.offer) as server,
        MseGradClient(server.address, options=ONCE) as client,
    ):
        for _ in range(5):
            assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert (in_packets.came, len(server.requests)) == (2, 3)


def test_without_a_thread_for_packets_the_stream_takes_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands((1000,))
    in_packets = InPackets(100)

    def without_a_thread(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("mse_grad_client.shared_memory.link.Stream", SimpleNamespace(open=without_a_thread))
    with (
        MemoryListener(requests=in_packets) as listener,
        ScriptedServer(answering(None), offer=listener.offer) as server,
        MseGradClient(server.address, options=ONCE) as client,
    ):
        assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert (in_packets.came, len(server.requests)) == (0, 1)


def test_a_request_too_large_for_a_packet_goes_over_the_stream() -> None:
    given = operands((20_000,))
    in_packets = InPackets(100)
    options = ClientOptions(copied_from_bytes=2**20)
    with (
        MemoryListener(requests=in_packets) as listener,
        ScriptedServer(answering(None), offer=listener.offer) as server,
        MseGradClient(server.address, options=options) as client,
    ):
        assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert (in_packets.came, len(server.requests)) == (0, 1)


def test_an_error_in_packets_is_the_callers() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.send(opened())
        connection.recv(1 << 20)
        connection.send(refused(1, Reason.SERVER_BUSY))
        connection.recv(1 << 20)

    with (
        MemoryListener(requests=refuse) as listener,
        ScriptedServer(answering(None), offer=listener.offer) as server,
        MseGradClient(server.address, options=ONCE) as client,
        pytest.raises(ResourceExhausted),
    ):
        client.compute(*operands((1000,)))


def test_a_server_that_takes_no_requests_there_gets_them_over_the_stream() -> None:
    given = operands((1000,))
    with (
        MemoryListener(refusing(lambda packet: packet.requests)) as listener,
        ScriptedServer(answering(None), offer=listener.offer) as server,
    ):
        listener.offer.max_packet_bytes = 1024
        with MseGradClient(server.address) as client:
            assert client.compute(*given).tobytes() == expected(*given).tobytes()
    assert len(server.requests) == 1
