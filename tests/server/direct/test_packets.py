from __future__ import annotations

import array
import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from mse_grad.codec import Chunk, SharedRange
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.packets import MOST_PACKET_BYTES
from support.same_host.handover import RawHandover, SharedBytes, memfd
from support.same_host.packets import RawPackets, open_packets
from support.server.raw_stream import RawStream, chunk, gradient, header, operands, reason_of
from support.server.server_in_loop import Serving, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is handed over on Linux alone")

FOUR = [1.0, -2.0, 3.5, 0.0]
PAGE_BYTES = 4096


class Beside:
    """A stream, its first message, the packets beside it, and their socket."""

    def __init__(
        self, stream: RawStream, opened: pb.StreamOpened, packets: RawPackets, connection: socket.socket
    ) -> None:
        self.stream = stream
        self.socket = connection
        self.opened = opened
        self.packets = packets


@asynccontextmanager
async def beside(server: Serving) -> AsyncIterator[Beside]:
    stream = server.raw_stream()
    opened = (await stream.opened()).opened
    assert opened is not None
    with RawHandover(opened) as handover:
        yield Beside(stream, opened, await open_packets(handover), handover.socket)


def assert_refused(result: pb.SharedMemoryHandoverResult, reason: Reason) -> None:
    assert reason_of(result.status) is reason


async def assert_ended(packets: RawPackets, reason: Reason) -> None:
    """Asserts that the server sent the reason and then closed the connection."""
    go_away = (await packets.receive()).go_away
    assert go_away is not None
    assert reason_of(go_away.status) is reason
    await packets.receive_end()


async def test_a_stream_says_how_large_a_packet_may_be() -> None:
    async with serving() as server, beside(server) as both:
        assert both.opened.shared_memory.max_packet_bytes == MOST_PACKET_BYTES


async def test_packets_are_a_stream_of_its_own_beside_that_of_the_rpc() -> None:
    async with serving() as server, beside(server) as both:
        for id in (1, 2, 5):
            await both.packets.assert_works(id)
            await both.stream.assert_works(id)
        counted = {
            transport: server.metric("mse_grad_transferred_elements_total", transport=transport, direction="out")
            for transport in ("packets", "stream")
        }
        assert counted == {"packets": 9, "stream": 9}
        assert (
            server.metric(
                "mse_grad_requests_total", method="StreamGradients", dtype="float32", reduction="mean", code="OK"
            )
            == 6
        )


async def test_a_client_of_this_host_takes_one_place_of_a_stream() -> None:
    async with serving(max_streams=2) as server, beside(server) as one, beside(server) as two:
        for both in (one, two):
            await both.packets.assert_works(1)
            await both.stream.assert_works(1)
            await both.packets.send([header(2, (3,))])  # keeps both busy, so that neither has to make room
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 2)
        assert server.metric("mse_grad_open_streams") == 2
        assert (await server.raw_stream().receive_failure())[1] is Reason.SERVER_BUSY


async def test_several_requests_in_one_packet_are_answered_in_one() -> None:
    async with serving() as server, beside(server) as both:
        await both.packets.send([header(id, (4,)) for id in (1, 2)], [chunk(id, 0, FOUR) for id in (1, 2)])
        results = (await both.packets.receive()).results
        assert [(result.id, bytes(result.y)) for result in results] == [(id, gradient(FOUR).tobytes()) for id in (1, 2)]


async def test_chunks_may_lie_in_the_memory_that_was_handed_over_beside_them() -> None:
    async with serving() as server, beside(server) as both:
        with RawHandover(both.opened) as handover, SharedBytes(PAGE_BYTES) as memory:
            assert not (await handover.hand_over([1], [memory.descriptor])).status.code
            for offset, values in zip((0, 64, 128), operands(FOUR), strict=True):
                memory.put(offset, values)
            shared = Chunk(1, 0, b"", b"", b"", SharedRange(4, 1, 0, 1, 64, 1, 128, 1, 192))
            await both.packets.send([header(1, (4,))], [shared])
            (result,) = (await both.packets.receive()).results
            assert (result.id, bytes(result.y)) == (1, b"")
            assert memory.get(192, 4, np.dtype(np.float32)).tobytes() == gradient(FOUR).tobytes()


async def test_a_request_in_many_packets_is_answered_range_by_range() -> None:
    values = np.arange(1000, dtype=np.float32)
    async with serving() as server, beside(server) as both:
        await both.packets.send([header(1, (1000,))], [chunk(1, 0, values[:400])])
        await both.packets.send(chunks=[chunk(1, 400, values[400:])])
        y = await both.packets.receive_gradient(1, 1000)
        assert y.tobytes() == gradient(values).tobytes()


async def test_an_error_ends_its_request_alone() -> None:
    async with serving() as server, beside(server) as both:
        await both.packets.send([header(1, (4,), reduction=9)])
        assert (await both.packets.receive_error())[2] is Reason.REDUCTION_UNKNOWN
        await both.packets.assert_works(2)


async def test_reading_goes_on_while_a_thread_computes() -> None:
    async with serving(inline_bytes=0) as server, beside(server) as both:
        server.backend.gate.clear()
        for id in (1, 2):
            await both.packets.send([header(id, (4,))], [chunk(id, 0, FOUR)])
        await server.started(2)
        server.backend.gate.set()
        response = await both.packets.receive()
        while len(response.results) < 2:
            response.results += (await both.packets.receive()).results
        assert [result.id for result in response.results] == [1, 2]


async def test_unread_answers_wait_and_all_arrive() -> None:
    count = 10_000  # 40 KB of gradient each: far more than the kernel buffers
    values = np.ones(count, np.float32)
    async with serving() as server, beside(server) as both:
        for id in range(1, 31):
            await both.packets.send(
                [header(id, (count,), scalar_dout=bytes(4))], [chunk(id, 0, values, scalar_dout=True)]
            )
        for id in range(1, 31):
            assert (await both.packets.receive_gradient(id, count)).size == count


async def test_a_malformed_packet_ends_the_connection_with_the_reason() -> None:
    async with serving() as server, beside(server) as both:
        await both.packets.send_bytes(b"\xff")
        await assert_ended(both.packets, Reason.MESSAGE_MALFORMED)
        await both.stream.assert_works(1)


async def test_a_packet_that_is_too_large_ends_the_connection_with_the_reason() -> None:
    async with serving() as server, beside(server) as both:
        await both.packets.send_bytes(bytes(MOST_PACKET_BYTES + 1))
        await assert_ended(both.packets, Reason.MESSAGE_TOO_LARGE)
        await both.stream.assert_works(1)


async def test_the_reason_of_an_end_reaches_a_client_that_sent_more_meanwhile() -> None:
    async with serving() as server, beside(server) as both:
        both.packets.send_at_once(b"\xff", b"never read")
        await assert_ended(both.packets, Reason.MESSAGE_MALFORMED)


async def test_the_end_of_the_rpc_ends_its_packets() -> None:
    async with serving() as server, beside(server) as both:
        await both.stream.close()
        await both.packets.receive_end()
        await server.until(lambda: server.metric("mse_grad_open_streams") == 0)


async def test_the_end_of_the_packets_does_not_end_the_rpc() -> None:
    async with serving() as server, beside(server) as both:
        await both.packets.close()
        assert server.metric("mse_grad_open_streams") == 1
        await both.stream.assert_works(1)


async def test_a_draining_server_finishes_the_requests_in_packets() -> None:
    async with serving(inline_bytes=0) as server, beside(server) as both:
        server.backend.gate.clear()
        await both.packets.send([header(1, (4,))], [chunk(1, 0, FOUR)])
        await server.started()
        draining = asyncio.ensure_future(server.server.drain())
        assert (await both.stream.receive()).go_away is not None
        server.backend.gate.set()
        answer = await both.packets.receive()
        assert [bytes(result.y) for result in answer.results] == [gradient(FOUR).tobytes()]
        go_away = answer.go_away or (await both.packets.receive()).go_away
        assert go_away is not None
        assert reason_of(go_away.status) is Reason.DRAINING
        await both.packets.close()
        await both.stream.close()
        await draining


async def test_a_secret_is_good_for_one_connection_for_requests() -> None:
    async with serving() as server, beside(server) as both:
        with RawHandover(both.opened) as other:
            assert_refused(await other.ask_for_requests(), Reason.SHARED_MEMORY_DENIED)
        await both.packets.assert_works(1)


async def test_a_connection_for_requests_shows_the_secret_and_brings_no_memory() -> None:
    async with serving() as server:
        opened = (await server.raw_stream().opened()).opened
        assert opened is not None
        with RawHandover(opened, secret=bytes(32)) as stranger:
            assert_refused(await stranger.ask_for_requests(), Reason.SHARED_MEMORY_DENIED)
        with RawHandover(opened) as loaded, memfd(PAGE_BYTES) as descriptor:
            assert_refused(await loaded.ask_for_requests([descriptor]), Reason.SHARED_MEMORY_UNUSABLE)
        with RawHandover(opened) as handover:
            assert not (await handover.hand_over()).status.code
            assert_refused(await handover.ask_for_requests(), Reason.SHARED_MEMORY_UNUSABLE)


async def test_a_client_that_is_gone_before_the_answer_harms_nothing() -> None:
    async with serving() as server:
        stream = server.raw_stream()
        opened = (await stream.opened()).opened
        assert opened is not None
        with RawHandover(opened) as handover:
            handover.leave_asking_for_requests()
        await stream.assert_works(1)
        await stream.close()


async def test_a_packet_with_a_descriptor_ends_the_packets_where_the_kernel_cannot_refuse_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mse_grad_server.direct.packet_socket.refuse_descriptors", lambda _: False)
    async with serving() as server, beside(server) as both:
        await both.packets.assert_works(1)
        with memfd(PAGE_BYTES) as descriptor:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            both.socket.sendmsg([b"\xff"], rights)
            try:
                go_away = (await both.packets.receive()).go_away
            except ConnectionResetError:  # for the packet that nobody read; reported once, before packets that came
                go_away = (await both.packets.receive()).go_away
        assert go_away is not None
        assert reason_of(go_away.status) is Reason.SHARED_MEMORY_UNUSABLE
        await both.stream.assert_works(2)
