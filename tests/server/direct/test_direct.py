"""Direct connections of a server, from the listener to the stream on them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mse_grad.codec import encode_stream_request
from mse_grad.frames import MAX_GREETING_BYTES, head
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.process.exits import ListenError
from support.server.direct_client import RawDirect, framed, greeting
from support.server.raw_stream import RawStream, chunk, gradient, header, reason_of
from support.server.server_in_loop import Serving, serving

FOUR = [1.0, -2.0, 3.5, 0.0]
STRANGERS = 64
REFUSALS = "mse_grad_direct_refusals_total"


class Both:
    """A stream, its first message, and the direct connection beside it."""

    def __init__(self, stream: RawStream, opened: pb.StreamOpened, direct: RawDirect) -> None:
        self.stream = stream
        self.opened = opened
        self.direct = direct


async def opened_on(server: Serving) -> tuple[RawStream, pb.StreamOpened]:
    stream = server.raw_stream()
    opened = (await stream.opened()).opened
    assert opened is not None
    return stream, opened


@asynccontextmanager
async def both_of(server: Serving) -> AsyncIterator[Both]:
    stream, opened = await opened_on(server)
    direct = await RawDirect.beside(opened)
    try:
        yield Both(stream, opened, direct)
    finally:
        direct.hang_up()


async def test_a_stream_offers_a_direct_connection() -> None:
    async with serving(direct_listen="auto") as server:
        _, opened = await opened_on(server)
        offer = opened.direct
        assert offer.host == ""
        assert offer.port not in (0, server.server.address.port)
        assert len(offer.secret) == 32
        assert offer.max_message_bytes == opened.limits.max_stream_message_bytes
        _, other = await opened_on(server)
        assert other.direct.secret != offer.secret


async def test_a_server_without_direct_connections_offers_none() -> None:
    async with serving(direct_listen="none") as server:
        _, opened = await opened_on(server)
        assert not opened.HasField("direct")


async def test_it_is_a_stream_of_its_own_beside_that_of_the_rpc() -> None:
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        for id in (1, 2, 5):
            await both.direct.assert_works(id)
            await both.stream.assert_works(id)
        counted = {
            transport: server.metric("mse_grad_transferred_elements_total", transport=transport, direction="out")
            for transport in ("direct", "stream")
        }
        assert counted == {"direct": 9, "stream": 9}
        assert server.metric("mse_grad_open_streams") == 1


async def test_requests_in_one_segment_are_answered_in_turn() -> None:
    """Several messages arrive at once: only the first makes the socket readable."""
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        messages = [encode_stream_request([header(id, (4,))], [chunk(id, 0, FOUR)]) for id in range(1, 21)]
        await both.direct.send_raw(b"".join(map(framed, messages)))
        answered: list[int] = []
        while len(answered) < len(messages):
            for result in (await both.direct.receive()).results:
                assert bytes(result.y) == gradient(FOUR).tobytes()
                answered.append(result.id)
        assert answered == list(range(1, 21))


async def test_a_large_gradient_comes_in_chunks() -> None:
    values = [float(number % 7) for number in range(300_000)]
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        await both.direct.send([header(1, (len(values),))], [chunk(1, 0, values[:200_000])])
        await both.direct.send((), [chunk(1, 200_000, values[200_000:])])
        got = b""
        while len(got) < 4 * len(values):
            got += b"".join(bytes(result.y) for result in (await both.direct.receive()).results)
        assert got == gradient(values).tobytes()


async def test_it_ends_with_its_rpc() -> None:
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        await both.stream.call.done_writing()
        await both.stream.receive_end()
        await both.direct.receive_end()


async def test_it_drains_with_its_rpc() -> None:
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        await both.direct.send([header(1, (4,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        draining = asyncio.ensure_future(server.server.drain())
        for stream in (both.stream, both.direct):
            go_away = (await stream.receive()).go_away
            assert go_away is not None
            assert reason_of(go_away.status) is Reason.DRAINING
            assert go_away.last_id == (1 if stream is both.direct else 0)
        await both.direct.send((), [chunk(1, 0, FOUR)])
        (result,) = (await both.direct.receive()).results
        assert bytes(result.y) == gradient(FOUR).tobytes()
        for stream in (both.direct, both.stream):
            await stream.call.done_writing()
            await stream.receive_end()
        await draining


async def test_a_cut_connection_leaves_the_stream_alone() -> None:
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        await both.direct.send([header(1, (4,))])
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 1)
        both.direct.hang_up()
        await server.until(lambda: server.metric("mse_grad_in_flight_requests") == 0)
        await both.stream.assert_works(1)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        framed(b"\xff" * 20),
        framed(b""),
        framed(pb.DirectGreeting(instance_id="x" * 32, secret=bytes(32)).SerializeToString()),
        head(MAX_GREETING_BYTES + 1) + bytes(MAX_GREETING_BYTES + 1),
        head(2**32 - 1),
    ],
    ids=["http", "tls", "no message", "empty", "another server", "too long", "far too long"],
)
async def test_a_stranger_is_told_and_cut_off(data: bytes) -> None:
    async with serving(direct_listen="auto") as server:
        _, opened = await opened_on(server)
        stranger = await RawDirect.connect(opened.direct.port, data)
        go_away = await stranger.receive_go_away()
        stranger.hang_up()
        assert reason_of(go_away.status) is Reason.DIRECT_DENIED
        assert server.metric(REFUSALS, reason="DIRECT_DENIED") == 1
        (line,) = server.events("direct_refused")
        assert opened.direct.secret.hex() not in str(line)


async def test_a_secret_is_good_once_and_with_its_server_alone() -> None:
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        _, fresh = await opened_on(server)
        for opened, other in ((both.opened, {}), (fresh, {"instance_id": "0" * 32}), (fresh, {"secret": b""})):
            stranger = await RawDirect.connect(opened.direct.port, greeting(opened, **other))
            assert reason_of((await stranger.receive_go_away()).status) is Reason.DIRECT_DENIED
            stranger.hang_up()
        await both.direct.assert_works(1)
        late = await RawDirect.beside(fresh)  # the wrong greetings did not use it up
        await late.assert_works(1)
        late.hang_up()


async def test_a_secret_ends_with_its_stream() -> None:
    async with serving(direct_listen="auto") as server:
        stream, opened = await opened_on(server)
        await stream.call.done_writing()
        await stream.receive_end()
        stranger = await RawDirect.connect(opened.direct.port, greeting(opened))
        assert reason_of((await stranger.receive_go_away()).status) is Reason.DIRECT_DENIED
        stranger.hang_up()


async def test_a_silent_stranger_is_cut_off() -> None:
    async with serving(direct_listen="auto") as server:
        _, opened = await opened_on(server)
        before = server.clock.pending
        stranger = await RawDirect.connect(opened.direct.port, b"\0\0")
        await server.until(lambda: server.clock.pending == before + 1)
        server.clock.advance(5)
        await stranger.receive_end()
        stranger.hang_up()
        await server.until(lambda: server.metric(REFUSALS, reason="DIRECT_DENIED") == 1)


async def test_strangers_are_bounded_and_do_not_keep_a_known_client_out_for_long() -> None:
    async with serving(direct_listen="auto") as server:
        _, opened = await opened_on(server)
        before = server.clock.pending
        strangers = [await RawDirect.connect(opened.direct.port) for _ in range(STRANGERS)]
        await server.until(lambda: server.clock.pending == before + STRANGERS)
        one_more = await RawDirect.connect(opened.direct.port, greeting(opened))
        await one_more.receive_end()
        assert server.metric(REFUSALS, reason="DIRECT_FULL") == 1
        server.clock.advance(5)
        for stranger in strangers:
            await stranger.receive_end()
        direct = await RawDirect.beside(opened)
        await direct.assert_works(1)
        for connection in (*strangers, one_more, direct):
            connection.hang_up()


async def test_a_message_that_is_too_large_is_refused_by_its_head() -> None:
    async with (
        serving(direct_listen="auto", max_stream_message_bytes=2**20, chunk_bytes=2**16) as server,
        both_of(server) as both,
    ):
        await both.direct.send_raw(head(2**20 + 1))
        go_away = await both.direct.receive_go_away()
        assert reason_of(go_away.status) is Reason.MESSAGE_TOO_LARGE
        await both.stream.assert_works(1)


async def test_a_message_that_is_not_protobuf_ends_the_connection_alone() -> None:
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        await both.direct.send_bytes(b"\xff" * 100)
        assert reason_of((await both.direct.receive_go_away()).status) is Reason.MESSAGE_MALFORMED
        await both.stream.assert_works(1)


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_half_sent_message_has_a_time_out(size: int) -> None:
    async with serving(direct_listen="auto", stall_timeout_s=7) as server, both_of(server) as both:
        before = server.clock.pending
        await both.direct.send_raw(head(size) + b"\x0a")
        await server.until(lambda: server.clock.pending == before + 1)
        server.clock.advance(8)
        assert reason_of((await both.direct.receive_go_away()).status) is Reason.DEADLINE_EXCEEDED
        await both.stream.assert_works(1)


async def test_a_message_in_small_parts_is_handled_once_it_is_whole() -> None:
    async with serving(direct_listen="auto") as server, both_of(server) as both:
        message = framed(encode_stream_request([header(1, (4,))], [chunk(1, 0, FOUR)]))
        before = server.clock.pending
        for position in range(len(message)):
            await both.direct.send_raw(message[position : position + 1])
            if position == 0:
                await server.until(lambda: server.clock.pending == before + 1)
        (result,) = (await both.direct.receive()).results
        assert bytes(result.y) == gradient(FOUR).tobytes()
        assert server.clock.pending == before


async def test_an_address_that_the_user_chose_and_another_process_has_ends_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        async with serving(direct_listen=address, open=False) as server:
            with pytest.raises(ListenError, match=f"cannot listen on {address}.*--direct-listen"):
                await server.server.open()


async def test_the_end_of_the_server_ends_strangers() -> None:
    async with serving(direct_listen="auto") as server:
        _, opened = await opened_on(server)
        before = server.clock.pending
        stranger = await RawDirect.connect(opened.direct.port, b"\0\0")
        await server.until(lambda: server.clock.pending == before + 1)
    await stranger.receive_end()
    stranger.hang_up()
