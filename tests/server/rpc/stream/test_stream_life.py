"""Ends of requests and streams other than a gradient."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from mse_grad.codec import Chunk, encode_stream_request
from mse_grad.reasons import Reason
from mse_grad_server.errors import BackendError
from support.server.fakes import FakeBackend
from support.server.raw_stream import RawStream, chunk, detail, gradient, header, reason_of
from support.server.server_in_loop import Serving, serving


async def held_up(server: Serving, stream: RawStream, id: int, **fields: Any) -> None:
    """Opens a request of two elements; the backend begins to compute it and waits."""
    server.backend.gate.clear()
    await stream.send([header(id, (2,), **fields)], [chunk(id, 0, [1.0, 2.0])])
    await server.started()


async def test_a_cancelled_request_is_answered_with_cancelled_and_its_chunks_are_ignored() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (2,))], [], [1])
        assert (await stream.receive_error())[:3] == (1, grpc.StatusCode.CANCELLED, Reason.CANCELLED)
        await stream.send((), [chunk(1, 0, [1.0, 2.0])], [1])
        await stream.assert_works(2)
        assert server.backend.computed_sizes == [3]
        assert server.events("request_failed")[0]["reason"] == "CANCELLED"


async def test_queued_chunks_of_a_cancelled_request_are_not_computed() -> None:
    async with serving(inline_bytes=0, compute_threads=1) as server:
        stream = await server.stream()
        await held_up(server, stream, 1)
        await stream.send([header(2, (2,))], [chunk(2, 0, [1.0, 2.0])])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 2)
        await stream.send(cancel_ids=[2])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        server.backend.gate.set()
        assert (await stream.receive_gradient(1, 2)).tolist() == gradient([1.0, 2.0]).tolist()
        assert (await stream.receive_error())[2] is Reason.CANCELLED
        assert server.backend.computed_sizes == [2]


async def test_a_cancelled_rpc_gives_everything_back() -> None:
    async with serving(inline_bytes=0) as server:
        stream = await server.stream()
        await held_up(server, stream, 1)
        await stream.send([header(2, (100,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 2)
        stream.call.cancel()
        await server.until(lambda: server.metric("mse_grad_open_streams") == 0)
        server.assert_nothing_in_flight()
        cancelled = {"method": "StreamGradients", "dtype": "float32", "reduction": "mean", "code": "CANCELLED"}
        assert server.metric("mse_grad_requests_total", **cancelled) == 2
        server.backend.gate.set()
        await (await server.stream()).assert_works(1)


async def test_a_client_that_closes_its_side_still_gets_its_answers() -> None:
    async with serving(inline_bytes=0) as server:
        stream = await server.stream()
        await held_up(server, stream, 1)
        await stream.send([header(2, (3,))], [chunk(2, 0, [1.0])])
        await stream.call.done_writing()
        server.backend.gate.set()
        assert (await stream.receive_gradient(1, 2)).tolist() == gradient([1.0, 2.0]).tolist()
        assert (await stream.receive()).results[0].id == 2
        await stream.receive_end()
        server.assert_nothing_in_flight()


async def test_a_deadline_fails_its_request_at_once_and_alone() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (2,), time_left_us=500_000), header(2, (2,))], [chunk(1, 0, [1.0])])
        assert (await stream.receive()).results[0].id == 1
        server.clock.advance(0.5)
        id, code, reason, _ = await stream.receive_error()
        assert (id, code, reason) == (1, grpc.StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED)
        await stream.send((), [chunk(1, 1, [1.0]), chunk(2, 0, [1.0, 2.0])])
        assert (await stream.receive_gradient(2, 2)).tolist() == gradient([1.0, 2.0]).tolist()


async def test_a_stream_has_a_bound_on_open_requests() -> None:
    async with serving(max_open_requests=2) as server:
        stream = await server.stream()
        await stream.send([header(id, (2,)) for id in (1, 2, 3)])
        response = await stream.receive()
        (error,) = response.errors
        assert (error.id, reason_of(error.status)) == (3, Reason.TOO_MANY_OPEN_REQUESTS)
        assert detail(error.status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        assert server.metric("mse_grad_refusals_total", reason="TOO_MANY_OPEN_REQUESTS") == 1
        await stream.send((), [chunk(1, 0, [1.0, 2.0])])
        await stream.receive_gradient(1, 2)
        await stream.assert_works(4)


async def test_a_request_beyond_the_admitted_bytes_is_refused_until_there_is_room(tmp_path: Path) -> None:
    limits: dict[str, Any] = dict.fromkeys(
        ("max_in_flight_bytes", "max_unary_bytes", "max_stream_message_bytes"), 2**20
    )
    names = ("a-token-of-one-client", "a-token-of-another-one")
    (tmp_path / "tokens").write_text("\n".join(names))
    clients: list[dict[str, Any]] = [{"metadata": (("authorization", f"Bearer {name}"),)} for name in names]
    token_file = str(tmp_path / "tokens")
    async with serving(**limits, chunk_bytes=2**15, window_chunks=1, token_file=token_file) as server:
        stream, other = [await server.stream(**client) for client in clients]
        window_bytes = server.settings.window_bytes
        ids = list(range(1, 7))
        # However large it is, a request counts as one window, because the server never holds more of it.
        await stream.send([header(id, (2**40,)) for id in ids])
        await other.send([header(1, (2**40,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_bytes") == 7 * window_bytes)
        await stream.send([header(100, (2,))])
        id, code, reason, message = await stream.receive_error()
        assert (id, code, reason) == (100, grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.SERVER_BUSY)
        assert "the request needs 24; 896KiB of 1MiB are in use" in message
        # The server has all operands of this request already, and computes it at once.
        await other.assert_works(2)
        await stream.send(cancel_ids=ids[:1])
        assert (await stream.receive_error())[2] is Reason.CANCELLED
        assert server.metric("mse_grad_in_flight_bytes") == 6 * window_bytes
        await stream.send([header(102, (2,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_bytes") == 6 * window_bytes + 24)


async def test_a_server_has_a_bound_on_streams() -> None:
    async with serving(max_streams=1) as server:
        first = await server.stream()
        await first.send([header(1, (3,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        refused = server.raw_stream()
        assert (await refused.receive_failure())[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.SERVER_BUSY)
        await first.assert_works(2)
        await first.send(cancel_ids=[1])
        assert (await first.receive_error())[2] is Reason.CANCELLED
        await first.close()
        await (await server.stream()).assert_works(1)


async def test_before_the_verified_gradient_requests_are_refused_and_the_stream_stays() -> None:
    backend = FakeBackend()
    backend.gate.clear()
    async with serving(backend=backend, open=False) as server:
        opening = asyncio.ensure_future(server.server.open())
        await server.started()
        server.connect()
        stream = await server.stream()
        await stream.send([header(1, (2,))], [chunk(1, 0, [1.0, 2.0])])
        assert (await stream.receive_error())[1:3] == (grpc.StatusCode.UNAVAILABLE, Reason.NOT_READY)
        backend.gate.set()
        await opening
        await stream.assert_works(2)


@pytest.mark.parametrize("inline_bytes", [0, 2**20], ids=["threads", "inline"])
@pytest.mark.parametrize("error", [BackendError("secret"), RuntimeError("secret")], ids=["backend", "unknown"])
async def test_a_failing_backend_ends_the_request_that_it_failed_on(error: Exception, inline_bytes: int) -> None:
    async with serving(inline_bytes=inline_bytes) as server:
        server.backend.error = error
        server.backend.fails_on = lambda predict: predict[0] == 13
        stream = await server.stream()
        await stream.send(
            [header(id, (1,)) for id in (1, 2, 3)],
            [chunk(1, 0, [1.0]), chunk(2, 0, [13.0]), chunk(3, 0, [3.0])],
        )
        results: list[Any] = []
        errors: list[Any] = []
        while len(results) + len(errors) < 3:
            response = await stream.receive()
            results += response.results
            errors += response.errors
        assert [(result.id, bytes(result.y)) for result in results] == [
            (1, gradient([1.0]).tobytes()),
            (3, gradient([3.0]).tobytes()),
        ]
        assert [(failed.id, reason_of(failed.status)) for failed in errors] == [(2, Reason.INTERNAL)]
        assert "secret" not in str(errors[0].status)
        await stream.assert_works(4)
        (line,) = server.events("request_failed")
        assert "secret" in line["exception"]
        assert line["request_id"] in errors[0].status.message


async def test_an_unexpected_error_of_the_stream_itself_is_internal(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(message: bytes) -> None:
        raise ZeroDivisionError("secret")

    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (2,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        monkeypatch.setattr("mse_grad_server.rpc.stream.stream.decode_stream_request", explode)
        await stream.send()
        code, reason, message = await stream.receive_failure()
        assert (code, reason) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
        assert "secret" not in message
        (line,) = server.events("call_failed")
        assert "ZeroDivisionError: secret" in line["exception"]
        assert not server.events("request_failed"), "the open request went with the stream"


async def test_a_draining_stream_sends_goaway_finishes_its_requests_and_ends_with_ok() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (3,)), header(2, (3,))], [chunk(1, 0, [1.0])])
        await stream.receive()
        draining = asyncio.ensure_future(server.server.drain())
        go_away = (await stream.receive()).go_away
        assert go_away is not None
        assert (go_away.last_id, reason_of(go_away.status)) == (2, Reason.DRAINING)
        assert detail(go_away.status, error_details_pb2.RetryInfo) is not None
        # The server ignores a later request and its chunks.
        await stream.send([header(3, (1,))], [chunk(3, 0, [1.0])])
        await stream.send((), [chunk(3, 0, [1.0])], [3])
        await stream.send((), [chunk(1, 1, [2.0, 3.0])])
        answer = await stream.receive()
        assert ([result.id for result in answer.results], list(answer.errors)) == ([1], [])
        assert not draining.done()
        await stream.send((), [chunk(2, 0, [4.0, 5.0, 6.0])])
        assert (await stream.receive_gradient(2, 3)).tolist() == gradient([4.0, 5.0, 6.0]).tolist()
        await stream.close()
        await asyncio.wait_for(draining, 20)
        assert server.events("drained")


async def test_a_drained_stream_is_read_until_its_client_closes_its_side() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.assert_works(1)
        draining = asyncio.ensure_future(server.server.drain())
        go_away = (await stream.receive()).go_away
        assert go_away is not None
        assert go_away.last_id == 1
        await stream.send([header(2, (1,))], [chunk(2, 0, [1.0])])
        await server.call("GetServerInfo", b"")
        server.clock.advance(0.99)
        assert not draining.done()
        await stream.close()
        await asyncio.wait_for(draining, 20)


async def test_a_drained_stream_whose_client_does_not_close_its_side_ends_with_ok_after_a_second() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.assert_works(1)
        draining = asyncio.ensure_future(server.server.drain())
        assert (await stream.receive()).go_away is not None
        await server.until(lambda: server.clock.pending == 2)
        server.clock.advance(1.0)
        await stream.receive_end()
        await asyncio.wait_for(draining, 20)
        assert server.events("drained")


async def test_a_stream_that_was_answered_ends_with_ok_although_the_time_to_drain_is_over() -> None:
    async with serving(drain_timeout_s=0.01) as server:
        stream = await server.stream()
        await stream.assert_works(1)
        await server.server.drain()
        assert (await stream.receive()).go_away is not None
        await stream.receive_end()


async def test_a_request_that_is_being_computed_is_answered_while_the_server_drains() -> None:
    async with serving(inline_bytes=0) as server:
        stream = await server.stream()
        await held_up(server, stream, 1)
        draining = asyncio.ensure_future(server.server.drain())
        await server.until(lambda: server.metric("mse_grad_ready") == 0)
        server.backend.gate.set()
        answer = await stream.receive()
        assert bytes(answer.results[0].y) == gradient([1.0, 2.0]).tobytes()
        assert answer.go_away or (await stream.receive()).go_away
        await stream.close()
        await asyncio.wait_for(draining, 20)


async def test_a_new_stream_is_refused_while_the_server_drains() -> None:
    async with serving() as server:
        stream = await server.stream()
        await stream.send([header(1, (3,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        draining = asyncio.ensure_future(server.server.drain())
        assert (await stream.receive()).go_away is not None
        assert (await server.raw_stream().receive_failure())[:2] == (
            grpc.StatusCode.UNAVAILABLE,
            Reason.DRAINING,
        )
        await stream.send(cancel_ids=[1])
        assert (await stream.receive_error())[2] is Reason.CANCELLED
        await stream.close()
        await asyncio.wait_for(draining, 20)


async def test_a_request_that_does_not_end_in_time_ends_with_the_server() -> None:
    async with serving(drain_timeout_s=0.01) as server:
        stream = await server.stream()
        await stream.send([header(1, (3,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        await server.server.drain()
        assert server.events("drain_timeout")[0]["unfinished_requests"] == 1
        assert (await stream.receive()).go_away is not None
        assert (await stream.receive_failure())[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING)


async def test_thousands_of_requests_with_every_outcome_leave_nothing_behind() -> None:
    random = np.random.default_rng(7)
    async with serving(inline_bytes=8, max_open_requests=50) as server:
        server.backend.error = BackendError("one in ten")
        server.backend.fails_on = lambda predict: predict[0] % 10 == 0
        stream = await server.stream()
        last_id = 0
        for _ in range(150):
            ids = range(last_id + 1, last_id + 1 + random.integers(1, 20))
            last_id = ids[-1]
            headers = [header(id, (2 if id % 7 else -2,), time_left_us=int(id % 11 == 0)) for id in ids]
            chunks: list[Chunk] = []
            for id in ids:
                if id % 5:
                    chunks.append(chunk(id, 0, [float(id)] * (1 + id % 3)))
                if id % 4:
                    chunks.append(chunk(id, 1, [float(id)]))
            await stream.send_bytes(encode_stream_request(headers, chunks, [id for id in ids if id % 3 == 0]))
            server.clock.advance(0.001)
        # The requests that are open now wait for chunks that never come.
        await stream.send(cancel_ids=range(1, last_id + 1))
        await stream.send([header(last_id + 1, (1,))], [chunk(last_id + 1, 0, [1.0])])
        ended: dict[int, int] = {}
        while last_id + 1 not in ended:
            response = await stream.receive()
            for result in response.results:
                ended[result.id] = ended.get(result.id, 0)
            for error in response.errors:
                ended[error.id] = ended.get(error.id, 0) + 1
        assert set(ended.values()) <= {0, 1}, "a request failed twice"
        server.assert_nothing_in_flight()
        gc.collect()
        counted = sum(
            sample.value
            for family in server.server.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "mse_grad_requests_total"
        )
        assert counted == last_id + 1, "each request is counted once"


async def test_a_stream_of_its_greatest_age_finishes_its_requests_and_takes_no_further_ones() -> None:
    async with serving(inline_bytes=0, max_stream_age_s=20) as server:
        stream = await server.stream()
        server.clock.advance(17)
        await stream.assert_works(1)
        await server.started()
        await held_up(server, stream, 2)
        server.clock.advance(5)
        younger = await server.stream()
        server.backend.gate.set()
        answer = await stream.receive()  # the server merges what waits
        assert [result.id for result in answer.results] == [2]
        assert answer.go_away is not None
        assert (answer.go_away.last_id, "greatest age" in answer.go_away.status.message) == (2, True)
        await stream.close()
        await younger.assert_works(1)


async def test_streams_that_were_opened_together_end_apart() -> None:
    async with serving(max_stream_age_s=20) as server:
        streams = [await server.stream() for _ in range(32)]
        server.clock.advance(20)
        places = server.server._service.stream_gradients.places
        draining = sum(each.idle_since_s is None for each in places._key_of)
        assert 0 < draining < 32  # half of them, on average: 0 and 32 have a chance of 1 in two billion each
        server.clock.advance(2)
        for stream in streams:
            assert (await stream.receive()).go_away is not None
            await stream.close()


async def test_a_stream_ends_after_its_connection_takes_no_further_calls() -> None:
    async with serving(max_connection_age_s=20, max_stream_age_s=1000) as server:
        stream = await server.stream()
        server.clock.advance(22)
        await stream.assert_works(1)
        server.clock.advance(6)
        assert (await stream.receive()).go_away is not None
        await stream.close()
