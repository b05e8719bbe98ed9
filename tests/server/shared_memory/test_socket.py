from __future__ import annotations

import asyncio
import errno
import io
import resource
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest

from mse_grad.codec import Chunk, SharedRange
from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, DType
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.direct.packet_socket import PacketSocket
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.model import Settings
from mse_grad_server.shared_memory.lease import Lease
from mse_grad_server.shared_memory.socket import SharedMemory, SharedMemoryLimits
from support.messages import changed
from support.same_host.descriptors import few_descriptors
from support.same_host.frozen_file import frozen_file
from support.same_host.handover import RawHandover, SharedBytes, memfd, punch_hole
from support.server.fakes import FakeClock
from support.server.raw_stream import RawStream, gradient, header, operands, reason_of
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is handed over on Linux alone")

FOUR = [1.0, -2.0, 3.5, 0.0]
RANGE = SharedRange(4, 1, 0, 1, 64, 1, 128, 1, 192)
PAGE_BYTES = 4096


async def opened(stream: RawStream) -> pb.StreamOpened:
    first = (await stream.opened()).opened
    assert first is not None
    return first


def no_packets(lease: Lease, connection: PacketSocket) -> NoReturn:
    raise AssertionError("no client asks for a connection for requests")


class Sharing:
    """A stream, the connection of its handover, and a segment of one page, which the server has mapped as number 1."""

    def __init__(self, stream: RawStream, handover: RawHandover, memory: SharedBytes) -> None:
        self.stream = stream
        self.handover = handover
        self.memory = memory

    def put(self, dtype: DType = DTYPES[0]) -> None:
        """Writes operands of four elements at the offsets of `RANGE`, and zeros at the place of the gradient."""
        for offset, values in zip((0, 64, 128), operands(FOUR, dtype), strict=True):
            self.memory.put(offset, values)
        self.memory.put(192, np.zeros(4, dtype.numpy))

    def y(self, dtype: DType = DTYPES[0]) -> bytes:
        return self.memory.get(192, 4, dtype.numpy).tobytes()

    async def send(self, id: int, shared: SharedRange = RANGE, *, offset: int = 0) -> None:
        await self.stream.send([header(id, (4,))], [shared_chunk(id, shared, offset=offset)])

    async def assert_answered(self, id: int) -> None:
        (result,) = (await self.stream.receive()).results
        assert (result.id, result.offset, bytes(result.y)) == (id, 0, b"")
        assert self.y() == gradient(FOUR).tobytes()


def shared_chunk(id: int, shared: SharedRange = RANGE, *, offset: int = 0) -> Chunk:
    return Chunk(id, offset, b"", b"", b"", shared)


@asynccontextmanager
async def sharing(server: Serving) -> AsyncIterator[Sharing]:
    stream = server.raw_stream()
    with RawHandover(await opened(stream)) as handover, SharedBytes(PAGE_BYTES) as memory:
        assert not (await handover.hand_over([1], [memory.descriptor])).status.code
        shared = Sharing(stream, handover, memory)
        shared.put()
        yield shared


async def first_error(stream: RawStream) -> tuple[int, Reason]:
    """Returns id and reason of the next error, after any gradients."""
    while not (errors := (await stream.receive()).errors):
        pass
    return errors[0].id, reason_of(errors[0].status)


def mapped(server: Serving) -> tuple[float, float]:
    return server.metric("mse_grad_shared_memory_segments"), server.metric("mse_grad_shared_memory_bytes")


def assert_refused(answer: pb.SharedMemoryHandoverResult, reason: Reason) -> None:
    assert reason_of(answer.status) is reason


@pytest.mark.parametrize("inline_bytes", [0, 2**20], ids=["threads", "inline"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
async def test_a_gradient_is_computed_in_the_memory_of_the_operands(dtype: DType, inline_bytes: int) -> None:
    async with serving(inline_bytes=inline_bytes) as server, sharing(server) as shared:
        shared.put(dtype)
        await shared.stream.send([header(1, (4,), dtype=dtype.wire)], [shared_chunk(1)])
        (result,) = (await shared.stream.receive()).results
        assert (result.id, result.offset, bytes(result.y)) == (1, 0, b"")
        assert shared.y(dtype) == gradient(FOUR, dtype=dtype).tobytes()


async def test_a_scalar_dout_is_in_the_header() -> None:
    async with serving() as server, sharing(server) as shared:
        scalar = np.float32(3.0).tobytes()
        chunk = shared_chunk(1, changed(RANGE, dout_segment=0, dout_offset=0))
        await shared.stream.send([header(1, (4,), scalar_dout=scalar)], [chunk])
        assert [result.id for result in (await shared.stream.receive()).results] == [1]
        threes = np.frombuffer(scalar * 4, np.float32)
        shared.memory.put(128, threes)
        y = shared.y()
        await shared.send(2)
        assert [result.id for result in (await shared.stream.receive()).results] == [2]
        assert shared.y() == y


async def test_chunks_in_messages_and_in_shared_memory_may_make_up_one_request() -> None:
    async with serving() as server, sharing(server) as shared:
        half = changed(RANGE, elements=2)
        predict, label, dout = (array[2:].tobytes() for array in operands(FOUR))
        await shared.stream.send([header(1, (4,))], [shared_chunk(1, half), Chunk(1, 2, predict, label, dout)])
        first, second = (await shared.stream.receive()).results
        assert (first.offset, bytes(first.y), second.offset) == (0, b"", 2)
        assert shared.y()[:8] + bytes(second.y) == gradient(FOUR).tobytes()


async def test_transferred_elements_and_bytes_are_counted_by_transport() -> None:
    async with serving() as server, sharing(server) as shared:
        received = {"direction": "in", "transport": "stream"}
        before = server.metric("mse_grad_transferred_bytes_total", **received)
        await shared.send(1)
        await shared.assert_answered(1)
        await shared.stream.assert_works(2)
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
        assert server.metric("mse_grad_shared_memory_elements_total") == 4
        assert server.metric("mse_grad_elements_total") == 7
        assert server.metric("mse_grad_transferred_bytes_total", **received) == before + 36
        used = {"direction": "in", "transport": "shared_memory"}
        assert server.metric("mse_grad_transferred_bytes_total", **used) == 3 * 16
        assert server.metric("mse_grad_transferred_elements_total", **used) == 3 * 4
        assert mapped(server) == (1, PAGE_BYTES)


async def test_a_lone_gradient_is_computed_at_once_and_one_beside_others_in_a_thread() -> None:
    async with serving(inline_bytes=2) as server, sharing(server) as shared:
        threads: list[str] = []
        compute = server.backend.compute

        def watched(*arguments: Any, **options: Any) -> None:
            threads.append(threading.current_thread().name)
            compute(*arguments, **options)

        server.backend.compute = watched  # type: ignore[method-assign]
        await shared.send(1)
        await shared.assert_answered(1)
        await shared.stream.send([header(2, (4,)), header(3, (4,))], [shared_chunk(3)])
        assert [result.id for result in (await shared.stream.receive()).results] == [3]
        await shared.stream.send((), [shared_chunk(2)])
        assert [result.id for result in (await shared.stream.receive()).results] == [2]
        names = [name.partition("_")[0] for name in threads]
        assert names == ["MainThread", "compute", "MainThread"]


BAD_CHUNKS = {
    "unknown segment": (shared_chunk(1, changed(RANGE, y_segment=9)), Reason.SEGMENT_UNKNOWN),
    "range past the end": (shared_chunk(1, changed(RANGE, label_offset=4090)), Reason.SHARED_RANGE_INVALID),
    "no element": (shared_chunk(1, changed(RANGE, elements=0)), Reason.BYTE_COUNT_MISMATCH),
    "negative count": (shared_chunk(1, changed(RANGE, elements=-4)), Reason.BYTE_COUNT_MISMATCH),
    "operands in the message too": (changed(shared_chunk(1), predict=b"1234"), Reason.BYTE_COUNT_MISMATCH),
    "more than the shape": (shared_chunk(1, changed(RANGE, elements=5)), Reason.CHUNK_OUT_OF_RANGE),
    "gap": (shared_chunk(1, offset=1), Reason.CHUNK_OUT_OF_ORDER),
}


@pytest.mark.parametrize(("bad", "reason"), BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_a_bad_chunk_fails_its_request_alone(bad: Chunk, reason: Reason) -> None:
    async with serving() as server, sharing(server) as shared:
        await shared.stream.send([header(1, (4,))], [bad])
        assert (await shared.stream.receive_error())[:3] == (1, grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert shared.y() == bytes(16)
        await shared.send(2)
        await shared.assert_answered(2)


async def test_a_range_of_dout_beside_a_scalar_dout_fails() -> None:
    async with serving() as server, sharing(server) as shared:
        await shared.stream.send([header(1, (4,), scalar_dout=bytes(4))], [shared_chunk(1)])
        assert (await shared.stream.receive_error())[2] is Reason.BYTE_COUNT_MISMATCH


async def test_segments_of_another_stream_are_unknown() -> None:
    async with serving() as server, sharing(server):
        other = await server.stream()
        await other.send([header(1, (4,))], [shared_chunk(1)])
        assert (await other.receive_error())[2] is Reason.SEGMENT_UNKNOWN


async def test_a_failing_neighbour_leaves_the_others_their_gradients() -> None:
    async with serving(inline_bytes=0) as server, sharing(server) as shared:
        server.backend.error = RuntimeError("no")
        server.backend.fails_on = lambda predict: predict.size == 3
        three = changed(RANGE, elements=3, y_offset=256)
        await shared.stream.send([header(1, (3,)), header(2, (4,))], [shared_chunk(1, three), shared_chunk(2)])
        results: list[Any] = []
        errors: list[Any] = []
        while not (results and errors):
            response = await shared.stream.receive()
            results += response.results
            errors += response.errors
        assert [error.id for error in errors] == [1]
        assert [result.id for result in results] == [2]
        assert shared.y() == gradient(FOUR).tobytes()


async def test_an_error_is_sent_only_after_the_last_write_to_the_memory() -> None:
    async with serving(inline_bytes=0) as server, sharing(server) as shared:
        server.backend.gate.clear()
        await shared.send(1)
        await server.started()
        await shared.stream.send(cancel_ids=[1])
        reading = asyncio.ensure_future(first_error(shared.stream))
        await server.until(lambda: server.metric("mse_grad_requests_total", **CANCELLED) == 1)
        await (await server.stream()).close()  # a whole round trip
        assert not reading.done()
        server.backend.gate.set()
        assert await reading == (1, Reason.CANCELLED)
        assert shared.y() == gradient(FOUR).tobytes()


CANCELLED = {"method": "StreamGradients", "dtype": "float32", "reduction": "mean", "code": "CANCELLED"}


async def test_the_connection_closes_only_after_the_last_write_to_the_memory() -> None:
    async with serving(inline_bytes=0) as server, sharing(server) as shared:
        server.backend.gate.clear()
        await shared.send(1)
        await server.started()
        shared.stream.call.cancel()
        await server.until(lambda: server.metric("mse_grad_open_streams") == 0)
        with pytest.raises(BlockingIOError):
            shared.handover.socket.recv(1)
        assert mapped(server) == (1, PAGE_BYTES)
        server.backend.gate.set()
        with pytest.raises(EOFError):
            await shared.handover.receive()
        await server.until(lambda: mapped(server) == (0, 0))


async def test_a_client_that_closes_its_side_still_gets_the_answers_of_its_memory() -> None:
    async with serving(inline_bytes=0) as server, sharing(server) as shared:
        server.backend.gate.clear()
        await shared.send(1)
        await server.started()
        await shared.stream.call.done_writing()
        await server.call("GetServerInfo", b"")
        server.backend.gate.set()
        await shared.assert_answered(1)
        await shared.stream.receive_end()


async def test_the_end_of_a_stream_closes_its_connection_and_mappings() -> None:
    async with serving() as server, sharing(server) as shared:
        await shared.stream.close()
        with pytest.raises(EOFError):
            await shared.handover.receive()
        await server.until(lambda: mapped(server) == (0, 0))


async def test_the_end_of_a_connection_closes_its_mappings_and_leaves_the_stream() -> None:
    async with serving() as server, sharing(server) as shared:
        shared.handover.socket.close()
        await server.until(lambda: mapped(server) == (0, 0))
        await shared.send(1)
        assert (await shared.stream.receive_error())[2] is Reason.SEGMENT_UNKNOWN
        await shared.stream.assert_works(2)


async def test_a_withdrawn_segment_is_unknown_to_later_requests() -> None:
    async with serving() as server, sharing(server) as shared:
        assert not (await shared.handover.hand_over(withdrawn=[1])).status.code
        await server.until(lambda: mapped(server) == (0, 0))
        await shared.send(1)
        assert (await shared.stream.receive_error())[2] is Reason.SEGMENT_UNKNOWN


@pytest.mark.parametrize("secret", [b"", bytes(32)], ids=["none", "another"])
async def test_a_connection_without_the_secret_of_a_stream_is_refused(secret: bytes) -> None:
    async with serving() as server:
        first = await opened(server.raw_stream())
        with memfd(PAGE_BYTES) as descriptor, RawHandover(first, secret=secret) as handover:
            assert_refused(await handover.hand_over([1], [descriptor]), Reason.SHARED_MEMORY_DENIED)
            with pytest.raises(EOFError):
                await handover.receive()
        assert mapped(server) == (0, 0)
        refusals = server.metric("mse_grad_shared_memory_refusals_total", reason="SHARED_MEMORY_DENIED")
        assert (refusals, len(server.events("shared_memory_refused"))) == (1, 1)


async def test_a_connection_that_means_another_run_of_the_server_is_refused() -> None:
    async with serving() as server:
        with RawHandover(await opened(server.raw_stream()), instance_id="another") as handover:
            assert_refused(await handover.hand_over(), Reason.SHARED_MEMORY_DENIED)


async def test_a_secret_is_good_for_one_connection() -> None:
    async with serving() as server:
        first = await opened(server.raw_stream())
        with RawHandover(first) as one, RawHandover(first) as two:
            assert not (await one.hand_over()).status.code
            assert_refused(await two.hand_over(), Reason.SHARED_MEMORY_DENIED)
            with memfd(PAGE_BYTES) as descriptor:
                assert not (await one.hand_over([1], [descriptor])).status.code


async def test_the_secret_of_a_stream_that_ended_is_refused() -> None:
    async with serving() as server:
        stream = server.raw_stream()
        first = await opened(stream)
        await stream.close()
        await server.until(lambda: server.metric("mse_grad_open_streams") == 0)
        with RawHandover(first) as handover:
            assert_refused(await handover.hand_over(), Reason.SHARED_MEMORY_DENIED)


async def test_a_user_who_is_not_allowed_is_refused() -> None:
    async with serving(shared_memory_users="4294967294") as server:
        with RawHandover(await opened(server.raw_stream())) as handover:
            answer = await handover.receive()
            assert_refused(answer, Reason.SHARED_MEMORY_DENIED)
            assert "shared_memory_users" in answer.status.message


async def test_the_reason_of_a_refusal_reaches_a_client_that_sent_its_packet_meanwhile() -> None:
    async with serving(shared_memory_users="4294967294") as server:
        with RawHandover(await opened(server.raw_stream())) as handover:
            assert_refused(await handover.hand_over(), Reason.SHARED_MEMORY_DENIED)


async def test_the_user_is_the_one_that_the_kernel_reports() -> None:
    log = open_log("info", "json", stream=io.StringIO())
    asked: list[socket.socket] = []

    def user_of(connection: socket.socket) -> int:
        asked.append(connection)
        return 1001

    settings = Settings(shared_memory_users="1000,1001")
    memory = SharedMemory(
        SharedMemoryLimits.of(settings), Metrics(), FakeClock(), log, instance_id="abc", user_of=user_of
    )
    memory.open()
    lease = memory.lease(no_packets)
    assert lease is not None
    with RawHandover(pb.StreamOpened(instance_id="abc", shared_memory=lease.offer)) as handover:
        assert not (await handover.hand_over()).status.code
    assert len(asked) == 1
    lease.close()
    memory.close()


HANDING_OVER = """
import array, os, socket, sys
path, name, packet = sys.argv[1:]
rights = array.array("i", [os.open(path, os.O_RDWR)])
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(chr(0) + name)
connection.sendmsg([bytes.fromhex(packet)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
print(connection.recv(65536).hex(), flush=True)
"""


async def handed_over_by_another_process(opened: pb.StreamOpened, path: Path) -> pb.SharedMemoryHandoverResult:
    """Hands over a file from another process, which may hang; returns the answer to the first packet."""
    offer = opened.shared_memory
    packet = pb.SharedMemoryHandover(instance_id=opened.instance_id, secret=offer.secret, segments=[1])
    arguments = (str(path), offer.socket_name, packet.SerializeToString().hex())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HANDING_OVER, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    answer = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
    return pb.SharedMemoryHandoverResult.FromString(bytes.fromhex(answer.decode()))


async def test_a_file_of_a_file_system_that_hangs_delays_no_other_client(tmp_path: Path) -> None:
    async with serving() as server, sharing(server) as shared:
        other = await opened(server.raw_stream())
        with frozen_file(tmp_path) as file:
            assert_refused(await handed_over_by_another_process(other, file.path), Reason.SHARED_MEMORY_UNUSABLE)
            await shared.send(1)
            await shared.assert_answered(1)
            with memfd(PAGE_BYTES) as descriptor:
                assert not (await shared.handover.hand_over([2], [descriptor])).status.code
            assert file.is_frozen


async def test_a_user_that_the_kernel_does_not_report_is_refused() -> None:
    def nobody(_: socket.socket) -> NoReturn:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    log = open_log("info", "json", stream=io.StringIO())
    memory = SharedMemory(
        SharedMemoryLimits.of(Settings()), Metrics(), FakeClock(), log, instance_id="abcd", user_of=nobody
    )
    memory.open()
    lease = memory.lease(no_packets)
    assert lease is not None
    with RawHandover(pb.StreamOpened(instance_id="abcd", shared_memory=lease.offer)) as handover:
        assert_refused(await handover.hand_over(), Reason.SHARED_MEMORY_DENIED)
    lease.close()
    memory.close()


async def test_without_a_descriptor_for_its_socket_nothing_is_offered() -> None:
    stream = io.StringIO()
    log = open_log("info", "json", stream=stream)
    memory = SharedMemory(SharedMemoryLimits.of(Settings()), Metrics(), FakeClock(), log, instance_id="abcde")
    with few_descriptors(0):
        memory.open()
    assert memory.lease(no_packets) is None
    assert "no_shared_memory" in stream.getvalue()
    memory.close()


async def test_a_refused_packet_leaves_the_segments_that_were_handed_over() -> None:
    async with serving() as server, sharing(server) as shared:
        with memfd(PAGE_BYTES, seals=0) as unsealed:
            assert_refused(await shared.handover.hand_over([2], [unsealed]), Reason.SHARED_MEMORY_UNUSABLE)
        assert_refused(await shared.handover.send(b"no packet"), Reason.SHARED_MEMORY_UNUSABLE)
        assert_refused(await shared.handover.send(bytes(5000)), Reason.SHARED_MEMORY_UNUSABLE)
        with memfd(PAGE_BYTES) as other:
            assert_refused(await shared.handover.hand_over(range(2, 22), [other] * 20), Reason.SHARED_MEMORY_UNUSABLE)
            assert_refused(await shared.handover.hand_over([2], [other, other]), Reason.SHARED_MEMORY_UNUSABLE)
        await shared.send(1)
        await shared.assert_answered(1)


async def test_a_stream_has_a_bound_on_shared_memory() -> None:
    async with serving(shared_memory_stream_bytes=2**20) as server, sharing(server) as shared:
        with memfd(2**20) as large:
            assert_refused(await shared.handover.hand_over([2], [large]), Reason.SHARED_MEMORY_FULL)
        await shared.send(1)
        await shared.assert_answered(1)


async def test_a_connection_that_shows_no_secret_in_time_is_closed() -> None:
    async with serving() as server:
        first = await opened(server.raw_stream())
        with RawHandover(first) as handover, RawHandover(first) as other:
            assert not (await other.hand_over()).status.code
            server.clock.advance(6)
            with pytest.raises(EOFError):
                await handover.receive()
            with memfd(PAGE_BYTES) as descriptor:
                assert not (await other.hand_over([1], [descriptor])).status.code


async def test_connections_without_a_secret_have_a_bound() -> None:
    async with serving() as server:
        first = await opened(server.raw_stream())
        strangers = [RawHandover(first) for _ in range(65)]
        try:
            assert_refused(await strangers[-1].receive(), Reason.SHARED_MEMORY_FULL)
        finally:
            for stranger in strangers:
                stranger.socket.close()


async def test_clients_are_turned_away_until_a_descriptor_is_free() -> None:
    async with serving() as server:
        stream = server.raw_stream()
        first = await opened(stream)
        waiting = [RawHandover(first) for _ in range(3)]  # the server has had no turn of the loop to accept them
        with few_descriptors(0):
            for handover in waiting:
                with pytest.raises(EOFError):
                    await handover.receive()
                handover.socket.close()
            assert not (await opened(server.raw_stream())).HasField("shared_memory")
            await stream.assert_works(1)
            server.clock.advance(1)
        (paused,) = server.events("shared_memory_paused")
        assert "Too many open files" in paused["message"]
        assert server.metric("mse_grad_shared_memory_refusals_total", reason="SHARED_MEMORY_FULL") == 1
        server.clock.advance(1)
        async with sharing(server) as shared:
            await shared.send(1)
            await shared.assert_answered(1)


async def test_memory_is_shared_with_as_many_clients_as_leave_descriptors_to_grpc() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64 + 2 * 4, limits[1]))
    try:
        memory = SharedMemory(
            SharedMemoryLimits.of(Settings()),
            Metrics(),
            FakeClock(),
            open_log("info", "json", stream=io.StringIO()),
            instance_id="ab",
        )
        memory.open()
        only = memory.lease(no_packets)
        assert only is not None
        assert memory.lease(no_packets) is None
        only.close()
        another = memory.lease(no_packets)
        assert another is not None
        another.close()
        memory.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_nothing_is_offered_if_the_setting_is_off() -> None:
    async with serving(shared_memory=False) as server:
        stream = server.raw_stream()
        assert not (await opened(stream)).HasField("shared_memory")
        await stream.send([header(1, (4,))], [shared_chunk(1)])
        assert (await stream.receive_error())[2] is Reason.SEGMENT_UNKNOWN
        await stream.assert_works(2)


@pytest.mark.parametrize("how", ["overwritten", "given back"])
async def test_memory_that_changes_during_the_computation_harms_only_its_owner(how: str) -> None:
    async with serving(inline_bytes=0) as server, sharing(server) as shared:
        server.backend.gate.clear()
        await shared.send(1)
        await server.started()
        if how == "overwritten":
            shared.memory.contents[...] = 255
        else:
            punch_hole(shared.memory.descriptor, PAGE_BYTES)
        server.backend.gate.set()
        assert [result.id for result in (await shared.stream.receive()).results] == [1]
        await shared.stream.assert_works(2)
