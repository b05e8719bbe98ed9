"""Greatest age of the streams of a client."""

from __future__ import annotations

from typing import Any

import grpc

from mse_grad_client.errors import ClientClosed, MseGradError
from mse_grad_client.routing.old_streams import OldStreams
from mse_grad_client.stream.stream import Stream


class FakeStream(Stream):
    """A stream with as many requests as the test says."""

    def __init__(self, requests: int = 0) -> None:
        super().__init__("here:1")
        self.requests = requests
        self.is_finished = False
        self.is_closed = False

    def finish_if_idle(self) -> bool:
        self.is_finished = not self.requests
        return self.is_finished

    def close(self, error: MseGradError) -> None:
        self.is_closed = True


class FakeChannel(grpc.Channel):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def _unused(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    subscribe = unsubscribe = unary_unary = unary_stream = stream_unary = stream_stream = _unused
    __enter__ = __exit__ = _unused


def nothing_beside(stream: Stream) -> bool:
    return False


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_stream_is_due_at_its_age_within_a_tenth() -> None:
    clock = Clock()
    due_s: list[float] = []
    for _ in range(50):
        old = OldStreams(100, nothing_beside, now=clock)
        assert not old.is_due
        clock.now_s = 1000
        old.opened()
        old.used()
        while not old.is_due:
            clock.now_s += 1
        due_s.append(clock.now_s - 1000)
    assert 90 <= min(due_s) < max(due_s) <= 111


def test_a_stream_is_not_due_before_its_first_request() -> None:
    clock = Clock()
    old = OldStreams(1, nothing_beside, now=clock)
    old.opened()
    clock.now_s += 2
    assert not old.is_due
    old.used()
    assert old.is_due
    old.opened()
    assert not old.is_due


def test_an_old_stream_ends_once_its_requests_have_ended() -> None:
    old, stream = OldStreams(100, nothing_beside), FakeStream(requests=1)
    old.add(stream, None)
    old.end_idle()
    assert not stream.is_finished
    stream.requests = 0
    old.end_idle()
    assert stream.is_finished


def test_an_old_stream_lives_as_long_as_requests_beside_it() -> None:
    beside = [FakeStream(requests=1)]
    old, stream = OldStreams(100, lambda _: bool(beside)), FakeStream()
    old.add(stream, None)
    old.end_idle()
    assert not stream.is_finished
    beside.clear()
    old.end_idle()
    assert stream.is_finished


def test_a_channel_is_closed_an_age_after_its_stream() -> None:
    old, channels = OldStreams(100, nothing_beside), [FakeChannel() for _ in range(3)]
    old.add(FakeStream(), channels[0])
    old.end_idle()
    assert not channels[0].is_closed  # a unary call may be under way there
    busy = FakeStream(requests=1)
    old.add(busy, channels[1])
    assert [channel.is_closed for channel in channels] == [True, False, False]
    old.add(FakeStream(), channels[2])
    assert not channels[1].is_closed
    old.close(ClientClosed("closed"))
    assert busy.is_closed
    assert all(channel.is_closed for channel in channels)
