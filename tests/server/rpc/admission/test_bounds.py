"""Bounds on the resources that callers may hold, tested over raw HTTP/2 or with messages that no SDK sends."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from mse_grad.codec import Chunk, encode_stream_request
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.rpc.admission.guard import CallGuard
from mse_grad_server.rpc.admission.reading import Reading
from support.server.raw_http2 import Http2, framed, header_block, request_fields
from support.server.raw_stream import chunk, header, operands, told
from support.server.server_in_loop import Serving, serving
from support.waiting import PATIENCE_S, until

KIB, MIB = 2**10, 2**20
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
UNARY = "/mse_grad.v1.MseGradService/ComputeGradient"
STREAM = "/mse_grad.v1.MseGradService/StreamGradients"
INFO = "/mse_grad.v1.MseGradService/GetServerInfo"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST_SERVICES = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()


def unary_request(n: int = 3) -> bytes:
    predict, label, dout = (
        pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[n], data=operand.tobytes()) for operand in operands([1.0] * n)
    )
    request = pb.ComputeGradientRequest(predict=predict, label=label, dout=dout, reduction=pb.REDUCTION_SUM)
    return request.SerializeToString()


async def failure(call: Any) -> tuple[grpc.StatusCode, Reason, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, PATIENCE_S)
    return told(caught.value)


def unary(server: Serving, method: str, message: bytes, **options: Any) -> Any:
    return server.channel.unary_unary(method)(message, timeout=PATIENCE_S, **options)


def small_calls(server: Serving) -> int:
    """Returns how many small calls are under way."""
    return len(server.server._interceptor._calls)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Reading]:
    """The small calls that have begun to write an answer."""
    begun: list[Reading] = []
    write = Reading.write

    async def begin(reading: Reading, message: Any) -> None:
        begun.append(reading)
        await write(reading, message)

    monkeypatch.setattr(Reading, "write", begin)
    return begun


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[Reading]:
    """The calls whose handlers have ended."""
    ended: list[Reading] = []
    answer = Reading.answered

    def end(reading: Reading, end_rpc: Callable[[], None]) -> None:
        ended.append(reading)
        answer(reading, end_rpc)

    monkeypatch.setattr(Reading, "answered", end)
    return ended


def http2(server: Serving, **options: Any) -> Http2:
    return Http2(str(server.server.address), **options)


# Small methods accept only small messages.


@pytest.mark.parametrize("method", [CHECK, INFO, WATCH, REFLECTION])
@pytest.mark.parametrize("is_compressed", [False, True], ids=["as it is", "compressed"])
async def test_a_small_method_accepts_four_kibibytes(method: str, is_compressed: bool) -> None:
    async with serving() as server:
        compression = grpc.Compression.Gzip if is_compressed else None
        call = server.channel.stream_stream(method)(iter([bytes(5 * KIB)]), compression=compression)
        code, reason, message = await failure(call.read())
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
        assert "5120" in message or "4096" in message


async def test_the_bounds_on_small_messages_and_on_expansion_are_settings() -> None:
    service = "mse_grad.v1.MseGradService"
    padding = b"\xa2\x06\xf0\x2e" + bytes(6000)  # a field 100 that no version of the message has
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString() + padding
    async with serving(max_small_message_bytes=8 * KIB) as server:
        await unary(server, CHECK, request)
    zeros = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[32 * KIB], data=bytes(128 * KIB))
    gradient = pb.ComputeGradientRequest(predict=zeros, label=zeros, dout=zeros, reduction=pb.REDUCTION_SUM)
    packed = gzip.compress(gradient.SerializeToString())
    assert 128 < 384 * KIB / len(packed) < 1024
    async with serving(max_expansion=128) as server:
        assert (await failure(unary(server, UNARY, packed)))[1] is Reason.MESSAGE_TOO_LARGE
    async with serving(max_expansion=1024) as server:
        await unary(server, UNARY, packed)


# gRPC bounds the headers of a client only once that client has acknowledged its settings.


@pytest.mark.parametrize("method", [CHECK, INFO, UNARY, STREAM, REFLECTION, "/no.such/Method"])
async def test_a_call_with_too_many_pairs_of_metadata_is_refused(method: str) -> None:
    async with serving() as server:
        call = server.channel.stream_stream(method)(metadata=[("x", "")] * 200)
        code, reason, message = await failure(call.read())
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
        assert "pairs; the server accepts 128" in message


@pytest.mark.parametrize("method", [CHECK, INFO, STREAM])
async def test_a_call_with_too_many_bytes_of_metadata_is_refused(method: str) -> None:
    async with serving() as server:
        with http2(server) as attacker:
            number = attacker.open_wide(header_block([*request_fields(method), *[(b"x", b"v" * 3000)] * 6]))
            await asyncio.to_thread(attacker.ended, number)
        (event,) = server.events("call_failed")
        assert event["reason"] == "MESSAGE_TOO_LARGE"
        assert "bytes; the server accepts 16384" in event["message"]


@pytest.mark.slow
async def test_a_client_that_does_not_acknowledge_the_settings_is_disconnected() -> None:
    async with serving() as server:
        with http2(server) as attacker, pytest.raises(ConnectionError, match="closed"):
            await asyncio.to_thread(attacker.ended, attacker.open(STREAM) + 2)  # an RPC that was never begun


async def test_metadata_within_the_bounds_is_accepted() -> None:
    async with serving() as server:
        for metadata in ([("x", "")] * 100, [("x", "v" * 3000)] * 2):
            await unary(server, UNARY, unary_request(), metadata=metadata)


async def test_a_compressed_message_is_bounded_by_its_expanded_size() -> None:
    async with serving() as server:
        request = health_pb2.HealthCheckRequest(service="mse_grad.v1.MseGradService").SerializeToString()
        await unary(server, CHECK, request, compression=grpc.Compression.Gzip)
        answer = await unary(server, UNARY, unary_request(), compression=grpc.Compression.Gzip)
        assert pb.ComputeGradientResponse.FromString(answer).y.shape == [3]
        stream = await server.stream(compression=grpc.Compression.Gzip)
        await stream.assert_works(1)
        # 64 MiB of zeros, compressed to 64 KiB: the server must never hold the expanded message.
        tracemalloc.start()
        code, reason, message = await failure(unary(server, UNARY, bytes(60 * MIB), compression=grpc.Compression.Gzip))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MESSAGE_TOO_LARGE)
        assert "send it uncompressed" in message
        await stream.send_bytes(bytes(15 * MIB))
        assert (await stream.receive_failure())[1] is Reason.MESSAGE_TOO_LARGE
        tracemalloc.stop()


async def test_a_message_that_begins_like_gzip_and_is_not_gzip_is_malformed() -> None:
    async with serving() as server:
        for broken in (b"\x1f\x8b\x08", gzip.compress(unary_request())[:-9], b"\x1f\x8b" + bytes(40)):
            assert (await failure(unary(server, UNARY, broken)))[1] is Reason.MESSAGE_MALFORMED


async def test_another_compression_is_refused_by_its_name() -> None:
    async with serving() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(server, UNARY, unary_request(), compression=grpc.Compression.Deflate)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Silent callers have to make room for others.


@pytest.mark.parametrize(
    ("method", "data"),
    [(CHECK, b""), (CHECK, framed(bytes(100))[:50]), (INFO, b""), (REFLECTION, b"")],
    ids=["nothing", "half a message", "GetServerInfo", "reflection"],
)
async def test_silent_small_calls_give_way_to_others(method: str, data: bytes) -> None:
    async with serving(max_small_calls=4) as server:
        with http2(server) as attacker:
            numbers = [attacker.open(method, data) for _ in range(4)]
            await server.until(lambda: small_calls(server) == 4)
            for _ in range(3):
                await health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest())
            await asyncio.to_thread(attacker.ended, numbers[0])


@pytest.mark.parametrize("method", [CHECK, INFO])
async def test_small_calls_whose_answers_nobody_reads_give_way_to_others(method: str, answered: list[Reading]) -> None:
    async with serving(max_small_calls=2) as server:
        with http2(server, window_bytes=0) as attacker:
            for _ in range(2):
                attacker.open(method, framed(b""), ends=True)
            await server.until(lambda: len(answered) == 2)
            assert small_calls(server) == 2
            for _ in range(3):
                await unary(server, CHECK, b"")


async def test_gradients_that_nobody_reads_give_way_to_others_after_a_while(answered: list[Reading]) -> None:
    async with serving(max_unary_in_flight=2, give_way_s=3) as server:
        with http2(server, window_bytes=0) as attacker:
            for _ in range(2):
                attacker.open(UNARY, framed(unary_request()), ends=True)
            await server.until(lambda: len(answered) == 2)
            assert (await failure(unary(server, UNARY, unary_request())))[1] is Reason.SERVER_BUSY
            server.clock.advance(3)
            for _ in range(3):
                await unary(server, UNARY, unary_request())


async def test_reflection_calls_whose_answers_nobody_reads_give_way_to_others(writes: list[Reading]) -> None:
    async with serving(max_small_calls=2) as server:
        with http2(server, window_bytes=0) as attacker:
            for _ in range(2):
                attacker.open(REFLECTION, framed(LIST_SERVICES))
            await server.until(lambda: len(writes) == 2)
            await health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest())
            await server.until(lambda: bool(server.events("call_failed")))
            assert [event["reason"] for event in server.events("call_failed")] == ["SERVER_BUSY"]


async def test_a_reflection_call_whose_answer_nobody_reads_ends_by_itself(writes: list[Reading]) -> None:
    async with serving(stall_timeout_s=7) as server:
        with http2(server, window_bytes=0) as attacker:
            attacker.open(REFLECTION, framed(LIST_SERVICES))
            await server.until(lambda: len(writes) == 1)
            server.clock.advance(7)
            await server.until(lambda: small_calls(server) == 0)
            assert [event["reason"] for event in server.events("call_failed")] == ["DEADLINE_EXCEEDED"]


async def test_a_caller_that_leaves_while_reflection_answers_is_no_failure_of_the_server(
    caplog: pytest.LogCaptureFixture, writes: list[Reading]
) -> None:
    async with serving() as server:
        with http2(server, window_bytes=0) as attacker:
            attacker.open(REFLECTION, framed(LIST_SERVICES))
            await server.until(lambda: len(writes) == 1)
        await server.until(lambda: small_calls(server) == 0)
        (event,) = server.events("call_failed")
        assert event["reason"] == "CANCELLED"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_silent_small_call_ends_by_itself() -> None:
    async with serving(stall_timeout_s=7) as server:
        with http2(server) as attacker:
            number = attacker.open(CHECK, framed(bytes(100))[:50])
            await server.until(lambda: small_calls(server) == 1)
            server.clock.advance(7)
            await asyncio.to_thread(attacker.ended, number)
            await server.until(lambda: bool(server.events("call_failed")))
            (line,) = server.events("call_failed")
            assert line["reason"] == "DEADLINE_EXCEEDED"


async def test_silent_unary_calls_of_one_connection_give_way_at_once() -> None:
    async with serving(max_unary_in_flight=2) as server:
        with http2(server) as attacker:
            first, _ = attacker.open(UNARY), attacker.open(UNARY)
            await server.until(lambda: len(server.server._service.compute_gradient.places) == 2)
            for _ in range(3):
                await unary(server, UNARY, unary_request())
            await asyncio.to_thread(attacker.ended, first)


async def test_silent_unary_calls_of_many_connections_give_way_after_a_while() -> None:
    async with serving(max_unary_in_flight=1, give_way_s=3) as server:
        with http2(server) as attacker:
            attacker.open(UNARY)
            await server.until(lambda: len(server.server._service.compute_gradient.places) == 1)
            code, reason, _ = await failure(unary(server, UNARY, unary_request()))
            assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.SERVER_BUSY)
            server.clock.advance(3)
            await unary(server, UNARY, unary_request())


async def test_the_longest_idle_stream_gives_way_to_another_and_is_told_so() -> None:
    async with serving(max_streams=2) as server:
        oldest, busy = await server.stream(), await server.stream()
        await busy.send([header(1, (3,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        newcomer = await server.stream()
        go_away = (await oldest.receive()).go_away
        assert go_away is not None
        assert "gave its place to another one" in go_away.status.message
        await oldest.close()
        await newcomer.assert_works(1)
        await busy.assert_works(2)


async def test_a_stream_whose_client_reads_nothing_gives_way_too() -> None:
    async with serving(max_streams=1, give_way_s=3) as server:
        with http2(server, window_bytes=0) as attacker:
            attacker.open(STREAM)
            await server.until(lambda: len(server.server._service.stream_gradients.places) == 1)
            # The client has not read the first message: only a stream that does nothing makes room at once.
            assert (await server.raw_stream().receive_failure())[1] is Reason.SERVER_BUSY
            server.clock.advance(3)
            await (await server.stream()).assert_works(1)


async def test_a_stream_whose_client_reads_nothing_ends_by_itself() -> None:
    async with serving(max_streams=1) as server:
        with http2(server, window_bytes=0) as attacker:
            attacker.open(STREAM)
            await server.until(lambda: len(server.server._service.stream_gradients.places) == 1)
            server.clock.advance(60)
            await server.until(lambda: len(server.server._service.stream_gradients.places) == 0)


async def test_a_stream_whose_requests_stay_incomplete_gives_way_after_a_while() -> None:
    async with serving(max_streams=1, give_way_s=3) as server:
        silent = await server.stream()
        await silent.send([header(1, (3,)), header(2, (3,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 2)
        assert (await server.raw_stream().receive_failure())[1] is Reason.SERVER_BUSY
        server.clock.advance(3)
        newcomer = await server.stream()
        await newcomer.assert_works(1)
        assert (await silent.receive()).go_away is not None
        server.clock.advance(1)
        assert (await silent.receive_failure())[1] is Reason.DRAINING


async def test_a_stream_that_waits_for_the_server_does_not_give_way() -> None:
    async with serving(max_streams=1, give_way_s=3, inline_bytes=0) as server:
        patient = await server.stream()
        server.backend.gate.clear()
        await patient.send([header(1, (3,)), header(2, (3,))], [chunk(1, 0, [1.0, 2.0, 3.0])])
        await server.started()
        server.clock.advance(3)
        assert (await server.raw_stream().receive_failure())[1] is Reason.SERVER_BUSY


async def test_one_connection_keeps_no_other_from_watching_health() -> None:
    async with serving(max_watches=3) as server:
        watch = server.channel.unary_stream(WATCH)
        watching = []
        for _ in range(3):
            watching.append(watch(b""))
            assert await watching[-1].read()
        async with grpc.aio.insecure_channel(
            str(server.server.address), options=[("grpc.use_local_subchannel_pool", 1)]
        ) as other:
            watch_elsewhere: Any = other.unary_stream(WATCH)
            another = watch_elsewhere(b"")
            assert await another.read()
            assert (await failure(watching[0].read()))[1] is Reason.SERVER_BUSY
            assert (await failure(watch(b"").read()))[1] is Reason.SERVER_BUSY


async def test_announced_requests_whose_chunks_do_not_come_give_way(tmp_path: Path) -> None:
    sizes: dict[str, Any] = dict.fromkeys(("max_in_flight_bytes", "max_unary_bytes", "max_stream_message_bytes"), MIB)
    names = ("a-token-of-the-silent-one", "a-token-of-an-honest-one")
    (tmp_path / "tokens").write_text("\n".join(names))
    clients: list[dict[str, Any]] = [{"metadata": (("authorization", f"Bearer {name}"),)} for name in names]
    token_file = str(tmp_path / "tokens")
    async with serving(**sizes, chunk_bytes=2**15, window_chunks=1, give_way_s=2, token_file=token_file) as server:
        silent, honest, busy = [await server.stream(**clients[number]) for number in (0, 1, 1)]
        await silent.send([header(id, (2**40,)) for id in range(1, 7)])
        await busy.send([header(1, (2**40,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 7)
        await honest.assert_works(1)
        await honest.send([header(2, (2**40,))])
        assert (await honest.receive_error())[2] is Reason.SERVER_BUSY
        server.clock.advance(2)
        await busy.send([], [chunk(1, 0, [1.0])])
        await busy.receive()
        await honest.send([header(3, (4,))], [chunk(3, 0, [1.0, 2.0])])
        assert (await honest.receive_gradient(3, 2)).size == 2
        errors = (await silent.receive()).errors
        assert len(errors) == 6
        assert "no chunk arrived for 2 s while other requests waited" in errors[0].status.message
        await honest.send([], [chunk(3, 2, [3.0, 4.0])])
        await honest.receive()


async def test_silent_announcements_keep_out_nobody_at_the_same_address() -> None:
    sizes: dict[str, Any] = dict.fromkeys(("max_in_flight_bytes", "max_unary_bytes", "max_stream_message_bytes"), MIB)
    async with serving(**sizes, chunk_bytes=2**15, window_chunks=1, give_way_s=2) as server:
        silent, honest = await server.stream(), await server.stream()
        await silent.send([header(id, (2**40,)) for id in range(1, 7)])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 6)
        await honest.assert_works(1)  # its operands are there
        await honest.send([header(2, (2**40,))])
        assert (await honest.receive_error())[2] is Reason.SERVER_BUSY
        server.clock.advance(2)
        await honest.send([header(3, (4,))], [chunk(3, 0, [1.0, 2.0])])
        assert (await honest.receive_gradient(3, 2)).size == 2
        assert len((await silent.receive()).errors) == 6


# Refused and ended calls leave no memory behind.


async def test_a_refused_stream_keeps_nothing_of_its_message() -> None:
    async with serving(max_stream_message_bytes=2 * MIB) as server:
        large = b"\xff" * (2 * MIB)  # malformed
        over = bytes(2 * MIB + 1)

        async def refuse() -> None:
            for message in (large, over):
                stream = await server.stream()
                await stream.send_bytes(message)
                await stream.receive_failure()

        await assert_keeps_less(2 * MIB, refuse)


async def test_a_refused_call_keeps_nothing_of_its_message() -> None:
    async with serving(max_unary_bytes=2 * MIB) as server:
        messages = (b"\xff" * (2 * MIB), bytes(2 * MIB + 1), gzip.compress(b"\xff" * MIB))

        async def refuse() -> None:
            for message in messages:
                await failure(unary(server, UNARY, message))

        await assert_keeps_less(2 * MIB, refuse)


async def test_an_idle_stream_keeps_nothing_of_its_last_message() -> None:
    async with serving() as server:
        streams = [await server.stream() for _ in range(4)]
        operand = bytes(MIB)

        async def compute() -> None:
            for stream in streams:
                await stream.send([header(1, (MIB // 4,))], [Chunk(1, 0, operand, operand, operand)])
                await stream.receive_gradient(1, MIB // 4)

        await assert_keeps_less(6 * MIB, compute, times=1)


async def test_the_guard_of_a_refused_call_is_freed_without_a_garbage_collection() -> None:
    def guards() -> int:
        return sum(type(each) is CallGuard for each in gc.get_objects())

    async with serving() as server:
        await failure(unary(server, UNARY, b"\xff"))
        gc.collect()
        gc.disable()
        try:
            before = guards()
            for _ in range(20):
                await failure(unary(server, UNARY, b"\xff"))
            await server.until(lambda: guards() <= before + 2)
        finally:
            gc.enable()


async def assert_keeps_less(most_bytes: int, work: Callable[[], Any], *, times: int = 4) -> None:
    """Asserts that `work` leaves less than `most_bytes` allocated, without a garbage collection."""
    if times > 1:
        await work()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before_bytes, _ = tracemalloc.get_traced_memory()
        for _ in range(times):
            await work()
        # The callee of the last call may be a few turns of the loop, or of gRPC's threads, behind its caller.
        await until(lambda: tracemalloc.get_traced_memory()[0] - before_bytes < most_bytes)
    finally:
        tracemalloc.stop()
        gc.enable()


async def test_a_stream_whose_answers_are_not_read_is_reset_and_no_longer_counts() -> None:
    async with serving(stall_timeout_s=5, max_streams=1) as server:
        await unary(server, UNARY, unary_request())
        elements = server.metric("mse_grad_elements_total")
        with http2(server, window_bytes=KIB) as attacker:
            operand = bytes(16 * KIB)
            message = encode_stream_request([header(1, (4 * KIB,))], [Chunk(1, 0, operand, operand, operand)])
            number = attacker.open(STREAM, framed(message))
            await server.until(lambda: server.metric("mse_grad_elements_total") > elements)
            server.clock.advance(5)
            await server.until(lambda: bool(server.events("call_failed")))
            server.clock.advance(5)
            await server.until(lambda: len(server.server._service.stream_gradients.places) == 0)
            await unary(server, UNARY, unary_request())  # gRPC releases the last call when the next one arrives
            await asyncio.to_thread(attacker.was_reset, number)


async def test_an_unread_answer_keeps_its_place_until_the_server_drops_it() -> None:
    async with serving(stall_timeout_s=5, max_unary_in_flight=1) as server:
        await unary(server, UNARY, unary_request())
        with http2(server, window_bytes=0) as attacker:
            number = attacker.open(UNARY, framed(unary_request()), ends=True)
            places = server.server._service.compute_gradient.places
            await server.until(lambda: server.metric("mse_grad_elements_total") == 6)
            assert len(places) == 1
            assert (await failure(unary(server, UNARY, unary_request())))[1] is Reason.SERVER_BUSY
            server.clock.advance(5)
            await server.until(lambda: len(places) == 0)
            await unary(server, UNARY, unary_request())  # gRPC releases the last call when the next one arrives
            await asyncio.to_thread(attacker.was_reset, number)


# One caller does not block the event loop.


async def test_a_message_with_very_many_errors_leaves_other_requests_their_turn() -> None:
    async with serving() as server:
        stream, other = await server.stream(), await server.stream()
        turns: list[int] = []
        await stream.send([], [Chunk(id, 0, b"", b"") for id in range(1, 1025)])
        await other.assert_works(1)
        told_of = 0
        while told_of < 1024:
            errors = (await stream.receive()).errors
            turns.append(len(errors))
            told_of += len(errors)
        assert told_of == 1024
        await stream.assert_works(1)
        assert max(turns) < 1024


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_answers_in_both_versions_and_describes_itself(version: str) -> None:
    async with serving() as server:
        name = f"grpc.reflection.{version}.ServerReflection"
        call = server.channel.stream_stream(f"/{name}/ServerReflectionInfo")()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
        answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
        listed = [service.name for service in answer.list_services_response.service]
        assert {name, "mse_grad.v1.MseGradService", "grpc.health.v1.Health"} <= set(listed)
        for service in listed:
            request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
            await call.write(request.SerializeToString())
            answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
            assert answer.file_descriptor_response.file_descriptor_proto, service
        await call.done_writing()
