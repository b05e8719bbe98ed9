"""`Stream` on a channel that the test controls."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, cast

import grpc
import numpy as np
import pytest

from mse_grad.codec import Header, StreamRequest, decode_stream_request
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import Cancelled, DeadlineExceeded, InternalError, MseGradError, Unavailable
from mse_grad_client.request import GradientRequest
from mse_grad_client.stream.cygrpc_call import open_call
from mse_grad_client.stream.exchange import Exchange
from mse_grad_client.stream.outbox import Outbox
from mse_grad_client.stream.stream import Stream
from support.client.scripted_server import LIMITS, answer, gone_away, opened, refused
from support.values import expected, operands
from support.waiting import wait_until

CHUNK_ELEMENTS = 8
WINDOW_CHUNKS = 3


class FakeCall:
    """The RPC: returns the messages that the test provides, and ends when the test decides."""

    def __init__(self) -> None:
        self._incoming: SimpleQueue[bytes | BaseException | None] = SimpleQueue()

    def give(self, message: bytes | BaseException | None) -> None:
        self._incoming.put(message)

    def cancel(self) -> bool:
        self.give(None)
        return True

    def __next__(self) -> bytes:
        message = self._incoming.get()
        if message is None:
            raise StopIteration
        if isinstance(message, BaseException):
            raise message
        return message


class FakeChannel:
    """Keeps the iterator of messages that the stream would send, from which the test reads."""

    def __init__(self) -> None:
        self.call = FakeCall()

    def stream_stream(self, _: str) -> Any:
        def start(messages: Iterator[bytes], **__: object) -> FakeCall:
            self._messages = messages
            return self.call

        return start

    def pull(self) -> StreamRequest:
        return decode_stream_request(next(self._messages))


def opened_over(channel: FakeChannel) -> Stream:
    return Stream.open(
        lambda outbox: open_call(cast(grpc.Channel, channel), "/fake/Stream", outbox.next_message), address="fake:1"
    )


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
def stream(channel: FakeChannel) -> Iterator[Stream]:
    live = opened_over(channel)
    channel.call.give(opened())
    assert live.wait_opened(10) is not None
    yield live
    live.close(Cancelled("the test is over"))


class Running:
    """Requests of a stream, each awaited by its own thread."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._threads = ThreadPoolExecutor(16)
        self._finishes: dict[Exchange, Future[None]] = {}

    def start(self, each: Exchange) -> None:
        id = self.stream.start(each)
        self._finishes[each] = self._threads.submit(self.stream.finish, id, each)

    def wait(self, each: Exchange) -> None:
        self._finishes[each].result(20)

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture
def running(stream: Stream) -> Iterator[Running]:
    requests = Running(stream)
    yield requests
    stream.close(Cancelled("the test is over"))
    requests.close()


def exchange(elements: int, *, deadline: float | None = None, seed: int = 7) -> tuple[Exchange, GradientRequest]:
    request = GradientRequest.prepare(*operands((elements,), seed=seed), "mean", out=None, numel=0)
    made = Exchange(
        request,
        request_id="r-1",
        deadline=deadline,
        chunk_elements=CHUNK_ELEMENTS,
        window_chunks=WINDOW_CHUNKS,
    )
    return made, request


def test_a_request_that_the_server_refused_is_freed_with_its_error(stream: Stream, channel: FakeChannel) -> None:
    gc.disable()  # only a cycle of references would need it
    try:
        each, request = exchange(4)
        id = stream.start(each)
        channel.call.give(refused(id, Reason.CHUNK_OUT_OF_ORDER))
        with pytest.raises(MseGradError):
            stream.finish(id, each)
        request.holder = None  # as the transport does at the end
        freed = weakref.ref(each)
        del each
        wait_until(lambda: freed() is None)
    finally:
        gc.enable()


def test_requests_that_waited_together_go_in_one_message(running: Running, channel: FakeChannel) -> None:
    exchanges = [exchange(4, seed=seed) for seed in range(10)]
    for each, _ in exchanges:
        running.start(each)
    message = channel.pull()
    assert [header.id for header in message.headers] == list(range(1, 11))
    assert [chunk.id for chunk in message.chunks] == list(range(1, 11))
    channel.call.give(answer({}, message))
    for seed, (each, request) in enumerate(exchanges):
        running.wait(each)
        np.testing.assert_array_equal(request.gradient(), expected(*operands((4,), seed=seed)))


def test_no_more_than_a_window_is_sent_before_an_answer(running: Running, channel: FakeChannel) -> None:
    each, request = exchange(8 * CHUNK_ELEMENTS + 1)
    running.start(each)
    headers: dict[int, Header] = {}
    offsets: list[int] = []
    while len(offsets) < 9:
        message = channel.pull()
        assert len(message.chunks) <= WINDOW_CHUNKS
        offsets += [chunk.offset for chunk in message.chunks]
        assert not running.stream._outbox
        channel.call.give(answer(headers, message))
    assert offsets == [CHUNK_ELEMENTS * number for number in range(9)]
    running.wait(each)
    np.testing.assert_array_equal(request.gradient(), expected(*operands((8 * CHUNK_ELEMENTS + 1,))))


def test_an_error_ends_only_the_request_it_names(running: Running, channel: FakeChannel) -> None:
    failing, _ = exchange(4)
    fine, request = exchange(4)
    running.start(failing)
    message = channel.pull()
    channel.call.give(refused(1, Reason.CHUNK_OUT_OF_ORDER, "offset is 9"))
    with pytest.raises(MseGradError, match="offset is 9") as caught:
        running.wait(failing)
    assert caught.value.reason is Reason.CHUNK_OUT_OF_ORDER
    assert caught.value.request_id == "r-1"
    running.start(fine)
    message = channel.pull()
    channel.call.give(answer({}, message))
    running.wait(fine)
    np.testing.assert_array_equal(request.gradient(), expected(*operands((4,))))


def test_a_deadline_travels_and_an_abandoned_gradient_is_never_written(running: Running, channel: FakeChannel) -> None:
    stream = running.stream
    each, request = exchange(4, deadline=time.monotonic() + 3600)
    id = stream.start(each)
    message = channel.pull()
    assert 0 < message.headers[0].time_left_us <= 3600_000_000
    each._deadline = time.monotonic()  # an hour later
    with pytest.raises(DeadlineExceeded) as caught:
        stream.finish(id, each)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    request.y[:] = b"\x07" * len(request.y)
    channel.call.give(answer({}, message))
    after, _ = exchange(4)
    running.start(after)
    message = channel.pull()
    assert message.cancel_ids == [1]
    channel.call.give(answer({}, message))
    running.wait(after)
    assert bytes(request.y) == b"\x07" * len(request.y)


def test_go_away_fails_requests_that_the_server_never_accepted_and_leaves_the_rest(
    running: Running, channel: FakeChannel
) -> None:
    taken, request = exchange(2 * CHUNK_ELEMENTS * WINDOW_CHUNKS)
    untaken, _ = exchange(4)
    headers: dict[int, Header] = {}
    running.start(taken)
    message = channel.pull()
    running.start(untaken)
    channel.call.give(gone_away(1))
    with pytest.raises(Unavailable) as caught:
        running.wait(untaken)
    assert caught.value.reason is Reason.DRAINING
    assert not running.stream.takes_requests
    with pytest.raises(Unavailable):
        running.start(exchange(4)[0])
    channel.call.give(answer(headers, message))
    answered = sum(chunk.id == 1 for chunk in message.chunks)
    while answered < 2 * WINDOW_CHUNKS:
        message = channel.pull()
        message.headers = [header for header in message.headers if header.id == 1]
        message.chunks = [chunk for chunk in message.chunks if chunk.id == 1]
        answered += len(message.chunks)
        channel.call.give(answer(headers, message))
    running.wait(taken)
    np.testing.assert_array_equal(request.gradient(), expected(*operands((2 * CHUNK_ELEMENTS * WINDOW_CHUNKS,))))
    with pytest.raises(StopIteration):  # closing this side fails the open requests
        channel.pull()


def test_the_end_of_the_stream_fails_every_open_request(running: Running, channel: FakeChannel) -> None:
    exchanges = [exchange(4)[0] for _ in range(3)]
    for each in exchanges:
        running.start(each)
    channel.call.give(None)
    for each in exchanges:
        with pytest.raises(Unavailable) as caught:
            running.wait(each)
        assert caught.value.reason is Reason.CONNECTION_LOST
    with pytest.raises(Unavailable):
        running.start(exchange(4)[0])


def test_closing_fails_open_requests_with_the_error_given(running: Running, channel: FakeChannel) -> None:
    each, _ = exchange(4)
    running.start(each)
    running.stream.close(Cancelled("closed by hand"))
    with pytest.raises(Cancelled, match="closed by hand"):
        running.wait(each)


@pytest.mark.parametrize(
    "result",
    [
        pb.GradientResult(id=1, offset=1, y=bytes(16)),
        pb.GradientResult(id=1, offset=0, y=bytes(20)),
        pb.GradientResult(id=1, offset=0, y=bytes(15)),
    ],
    ids=["wrong offset", "more than was sent", "half an element"],
)
def test_an_answer_against_the_contract_is_an_internal_error(
    running: Running, channel: FakeChannel, result: pb.GradientResult
) -> None:
    each, _ = exchange(4)
    running.start(each)
    channel.pull()
    channel.call.give(pb.StreamGradientsResponse(results=[result]).SerializeToString())
    with pytest.raises(InternalError, match="expected elements from 0 to 4"):
        running.wait(each)


def test_a_message_that_is_no_protobuf_fails_open_requests(running: Running, channel: FakeChannel) -> None:
    each, _ = exchange(4)
    running.start(each)
    channel.call.give(b"\xff\xff\xff")
    with pytest.raises(InternalError, match="broke the contract"):
        running.wait(each)


def test_limits_are_those_of_the_server(stream: Stream) -> None:
    assert stream.wait_opened(0) == LIMITS


def test_waiting_for_the_opening_ends_in_time(channel: FakeChannel) -> None:
    silent = opened_over(channel)
    assert silent.wait_opened(0.01) is None
    silent.close(Cancelled("the test is over"))
    with pytest.raises(Cancelled):
        silent.wait_opened(0)


def test_a_request_that_cannot_be_encoded_fails_in_its_own_thread_and_alone(
    stream: Stream, channel: FakeChannel, running: Running
) -> None:
    before, _ = exchange(3)
    running.start(before)
    broken, request = exchange(3)
    request.numel = 100.5  # type: ignore[assignment]
    with pytest.raises(TypeError):
        stream.start(broken)
    after, _ = exchange(3)
    running.start(after)
    headers: dict[int, Header] = {}
    while len(headers) < 2:
        channel.call.give(answer(headers, channel.pull()))
    running.wait(before)
    running.wait(after)
    assert sorted(headers) == [1, 2]


class IdleCall:
    """A call that sends a message only when the test asks for it, and receives nothing."""

    is_sending = False
    descriptor: int | None = None

    def __init__(self, pull: Callable[[], bytes | None]) -> None:
        self.pull = pull
        self._ended = threading.Event()

    def wake(self) -> None:
        pass

    def finish(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        self._ended.set()

    def __next__(self) -> bytes:
        self._ended.wait()
        raise StopIteration


@pytest.fixture
def unread() -> Iterator[tuple[Stream, IdleCall]]:
    """A stream whose server does not read, with its call."""
    calls: list[IdleCall] = []

    def open(outbox: Outbox) -> IdleCall:
        calls.append(IdleCall(outbox.next_message))
        return calls[0]

    stream = Stream.open(open, address="fake:1")
    yield stream, calls[0]
    stream.close(Unavailable("the test has ended"))


def test_a_request_that_expires_before_it_was_sent_leaves_the_queue_at_once(unread: tuple[Stream, IdleCall]) -> None:
    stream, call = unread
    kept, _ = exchange(5)
    kept_id = stream.start(kept)
    for _ in range(100):
        expiring, _ = exchange(30, deadline=time.monotonic())
        with pytest.raises(DeadlineExceeded):
            stream.finish(stream.start(expiring), expiring)
    assert len(stream._outbox) == 1
    assert list(stream._pending) == [kept_id]
    message = call.pull()
    assert message is not None
    sent = decode_stream_request(message)
    assert ([header.id for header in sent.headers], list(sent.cancel_ids)) == ([kept_id], [])
    assert call.pull() is None


def test_a_request_that_expires_half_sent_leaves_its_cancellation_alone(unread: tuple[Stream, IdleCall]) -> None:
    stream, call = unread
    expiring, _ = exchange(30)
    id = stream.start(expiring)
    first = stream._outbox._parts.popleft()  # gRPC had taken this part already
    assert first.opens
    stream.abandon(id, expiring)
    message = call.pull()
    assert message is not None
    sent = decode_stream_request(message)
    assert (list(sent.headers), list(sent.chunks), list(sent.cancel_ids)) == ([], [], [id])
    assert call.pull() is None


def test_a_stream_that_has_ended_holds_no_requests(unread: tuple[Stream, IdleCall]) -> None:
    stream, _ = unread
    lost, _ = exchange(5)
    id = stream.start(lost)
    stream.close(Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        stream.finish(id, lost)
    assert (len(stream._outbox), dict(stream._pending)) == (0, {})
