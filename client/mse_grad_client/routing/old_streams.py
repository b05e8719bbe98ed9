"""Age of the streams of one connection."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import grpc

from mse_grad_client.chance import uniform
from mse_grad_client.errors import MseGradError
from mse_grad_client.stream.cygrpc_call import release_locks
from mse_grad_client.stream.stream import Stream

__all__ = ["OldStreams"]

# Streams that were opened together end up to this part of their age apart.
_JITTER = 0.1


class OldStreams:
    """Streams past their greatest age: they finish their requests, then end. The connection's lock guards it.

    Each has its gRPC channel, so that the next stream begins with a new connection, which a load balancer may lead
    elsewhere. A channel is closed an age after its stream, when unary calls on it have ended too.

    Args:
        max_age_s: The greatest age, within 10%.
        has_requests: Returns whether a request is under way beside a stream.
        now: The clock.
    """

    def __init__(
        self, max_age_s: float, has_requests: Callable[[Stream], bool], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_age_s = max_age_s
        self._has_requests = has_requests
        self._now = now
        self._old_from_s = math.inf
        self._is_used = False
        self._ending: list[Stream] = []
        self._channels: list[grpc.Channel] = []

    @property
    def is_due(self) -> bool:
        """Whether the newest stream has reached its age; not before its first request, however long that took."""
        return self._is_used and self._now() >= self._old_from_s

    def opened(self) -> None:
        """A stream was opened."""
        self._is_used = False
        self._old_from_s = self._now() + self._max_age_s * uniform(1 - _JITTER, 1 + _JITTER)

    def used(self) -> None:
        """The newest stream, or packets beside it, takes a request."""
        self._is_used = True

    def add(self, stream: Stream, channel: grpc.Channel | None) -> None:
        """Adds the newest stream, which gets no further requests, and closes the channels of those that have ended."""
        self._old_from_s = math.inf
        if not self._ending:
            for old in self._channels:
                old.close()
            self._channels.clear()
        self._ending.append(stream)
        if channel is not None:
            self._channels.append(channel)

    def end_idle(self) -> None:
        """Ends the streams whose requests have ended."""
        if self._ending:
            self._ending = [stream for stream in self._ending if not self._has_ended(stream)]

    def close(self, error: MseGradError) -> None:
        """Ends every stream and channel; requests under way fail with `error`."""
        for stream in self._ending:
            stream.close(error)
        for channel in self._channels:
            channel.close()

    def release_locks(self) -> None:
        """See Connection.release_locks."""
        for channel in self._channels:
            release_locks(channel)

    def _has_ended(self, stream: Stream) -> bool:
        return stream.has_ended or (not self._has_requests(stream) and stream.finish_if_idle())
