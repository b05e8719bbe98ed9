"""Both kinds of calls, against gRPC's own server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest

from mse_grad_client.stream import cygrpc_call
from mse_grad_client.stream.call import Call, ThreadedCall
from mse_grad_client.stream.cygrpc_call import CygrpcCall, open_call

pytestmark = pytest.mark.usefixtures("each_call")

METHOD = "/test.Test/Talk"
LARGE_BYTES = 1 << 20
Handler = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]


def echo(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield from messages


class Outgoing:
    """Messages that a call pulls, one at a time."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self._pulling = threading.Lock()

    def __call__(self) -> bytes | None:
        assert self._pulling.acquire(blocking=False), "two threads pull at a time"
        try:
            return self.messages.popleft() if self.messages else None
        finally:
            self._pulling.release()


@contextmanager
def talking(handler: Handler, outgoing: Outgoing) -> Iterator[Call]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "test.Test", {"Talk": grpc.stream_stream_rpc_method_handler(handler)}
                ),
            )
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            talk = open_call(channel, METHOD, outgoing)
            try:
                yield talk
            finally:
                talk.cancel()
                with suppress(grpc.RpcError):
                    while next(talk, None) is not None:
                        pass
        server.stop(None).wait()


def test_messages_come_back_in_the_order_in_which_they_were_put() -> None:
    outgoing = Outgoing()
    with talking(echo, outgoing) as talk:
        for number in range(100):
            outgoing.messages.append(b"%d" % number)
            if number % 7 == 0:
                talk.wake()
        talk.wake()
        assert [next(talk) for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_more_goes_out_than_the_window_of_http2_holds_before_anything_is_read() -> None:
    outgoing = Outgoing()
    outgoing.messages.extend(bytes([number]) * LARGE_BYTES for number in range(16))
    with talking(echo, outgoing) as talk:
        talk.wake()
        for number in range(16):
            assert next(talk) == bytes([number]) * LARGE_BYTES
        assert not outgoing.messages


def test_any_thread_may_wake_it_while_another_reads() -> None:
    outgoing = Outgoing()

    def put(thread: int) -> None:
        for number in range(50):
            outgoing.messages.append(b"%d %d" % (thread, number))
            talk.wake()

    with talking(echo, outgoing) as talk, ThreadPoolExecutor(4) as threads:
        for thread in range(4):
            threads.submit(put, thread)
        got = [next(talk) for _ in range(200)]
    for thread in range(4):
        own = [message for message in got if message.startswith(b"%d " % thread)]
        assert own == [b"%d %d" % (thread, number) for number in range(50)]


def test_finishing_closes_this_side_after_the_remaining_messages() -> None:
    def count(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"%d" % sum(1 for _ in messages)

    outgoing = Outgoing()
    with talking(count, outgoing) as talk:
        outgoing.messages.extend([bytes(LARGE_BYTES)] * 5)
        talk.wake()
        talk.finish()
        assert next(talk) == b"5"
        with pytest.raises(StopIteration):
            next(talk)


def test_the_servers_ok_ends_it_after_its_last_message() -> None:
    outgoing = Outgoing()
    with talking(lambda _, __: iter([b"first", b"last"]), outgoing) as talk:
        assert [next(talk), next(talk)] == [b"first", b"last"]
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(talk)
        outgoing.messages.append(b"too late")
        talk.wake()


def test_an_error_comes_with_its_code_its_message_and_its_trailers() -> None:
    def refuse(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"before"
        context.set_trailing_metadata((("x-request-id", "r-1"), ("status-bin", b"\x00\xff")))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many, zu viele, 太多")

    with talking(refuse, Outgoing()) as talk:
        assert next(talk) == b"before"
        with pytest.raises(grpc.RpcError) as caught:
            next(talk)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "too many, zu viele, 太多"
        trailers = dict(error.trailing_metadata())
        assert (trailers["x-request-id"], trailers["status-bin"]) == ("r-1", b"\x00\xff")


def test_a_call_to_a_port_without_a_listener_is_unavailable() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        talk = open_call(channel, METHOD, Outgoing())
        with pytest.raises(grpc.RpcError) as caught:
            next(talk)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "127.0.0.1:1" in error.details()


def test_cancelling_ends_a_read_under_way() -> None:
    with talking(echo, Outgoing()) as talk, ThreadPoolExecutor(1) as threads:
        reading = threads.submit(next, talk)
        talk.cancel()
        error: Any = reading.exception(20)
        assert error.code() is grpc.StatusCode.CANCELLED


def test_a_channel_that_closes_ends_it() -> None:
    with ThreadPoolExecutor(1) as threads:
        with grpc.insecure_channel("127.0.0.1:1") as channel:
            talk = open_call(channel, METHOD, Outgoing())
            reading = threads.submit(next, talk)
        assert isinstance(reading.exception(20), grpc.RpcError)


def test_the_kind_that_the_test_asked_for_is_used(each_call: str) -> None:
    with talking(echo, Outgoing()) as talk:
        assert type(talk) is {"cygrpc": CygrpcCall, "threaded": ThreadedCall}[each_call]


def test_a_grpc_with_other_internals_is_used_through_its_public_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    outgoing = Outgoing()
    outgoing.messages.append(b"hello")
    monkeypatch.setattr(cygrpc_call, "cygrpc", object())
    with talking(echo, outgoing) as talk:
        assert type(talk) is ThreadedCall
        talk.wake()
        assert next(talk) == b"hello"
