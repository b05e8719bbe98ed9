"""A request on its way to a server, whichever way it takes."""

from __future__ import annotations

from typing import Protocol

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.exchange import Exchange
from mse_grad_client.handover import Handover
from mse_grad_client.shared_exchange import SharedExchange
from mse_grad_client.stream import Stream

__all__ = ["QUIET_TIMEOUT_S", "PacketRide", "Ride", "SharedRide", "StreamRide"]

QUIET_TIMEOUT_S = 0.5
"""How long a request that failed waits for the server's word that it writes to the gradient no more, in seconds.

Longer than a kernel runs; a server that does not say so in this time hangs.
"""

# The server's words for memory that it does not have, or not any more.
_NOT_SHARED = (Reason.SEGMENT_UNKNOWN, Reason.SHARED_RANGE_INVALID)


class _Hold(Protocol):
    def __call__(self, handover: Handover, exchange: SharedExchange) -> None: ...


class Ride(Protocol):
    """A request under way over a stream. Ends with either of its methods, which is called once."""

    def finish(self) -> None:
        """Blocks until the gradient is whole; raises MseGradError."""

    def abandon(self) -> None:
        """Gives it up; nothing is written to its gradient from now on."""

    def has_to_go_elsewhere(self, error: MseGradError) -> bool:
        """Whether it may still succeed another way, although `finish` raised `error`."""


class StreamRide:
    """One whose tensors travel in the messages of the stream."""

    def __init__(self, stream: Stream, exchange: Exchange) -> None:
        """Starts it; raises MseGradError where the stream takes no requests any more."""
        self._stream = stream
        self._exchange = exchange
        self._id = stream.start(exchange)

    def finish(self) -> None:
        """See Ride."""
        self._stream.finish(self._id, self._exchange)

    def abandon(self) -> None:
        """See Ride."""
        self._stream.abandon(self._id, self._exchange)

    def has_to_go_elsewhere(self, error: MseGradError) -> bool:
        """See Ride; there is no other way."""
        return False


class PacketRide(StreamRide):
    """Likewise, over packets beside the stream of an RPC."""

    def has_to_go_elsewhere(self, error: MseGradError) -> bool:
        """See Ride; the RPC knows more of what has happened to the server."""
        return isinstance(error, Unavailable) and not self._stream.takes_requests


class SharedRide:
    """One whose tensors lie in shared memory."""

    def __init__(self, stream: Stream, exchange: SharedExchange, handover: Handover, hold: _Hold) -> None:
        """Starts it; raises MseGradError where the stream takes no requests any more.

        Args:
            stream: The stream of the RPC, or packets.
            exchange: The request.
            handover: Shares the memory that it lies in.
            hold: Keeps that from being used again where the server may still write to it.
        """
        self._stream = stream
        self._exchange = exchange
        self._handover = handover
        self._hold = hold
        self._id = stream.start(exchange)

    def finish(self) -> None:
        """See Ride."""
        stream, id, exchange = self._stream, self._id, self._exchange
        try:
            stream.finish(id, exchange)
            while not exchange.is_complete:
                try:
                    exchange.advance()
                    stream.follow(id, exchange)
                except BaseException:
                    stream.abandon(id, exchange)
                    raise
                if not exchange.is_complete:
                    stream.finish(id, exchange)
        except BaseException:
            self._await_quiet()
            raise

    def abandon(self) -> None:
        """See Ride."""
        self._stream.abandon(self._id, self._exchange)
        self._await_quiet()

    def has_to_go_elsewhere(self, error: MseGradError) -> bool:
        """See Ride; then nothing more is shared."""
        has_ended = isinstance(error, Unavailable) and not self._stream.takes_requests
        if has_ended or error.reason in _NOT_SHARED:
            self._handover.give_up()
            return True
        return False

    def _await_quiet(self) -> None:
        if not self._stream.has_ended and self._exchange.wait_quiet(QUIET_TIMEOUT_S):
            return
        if not self._handover.wait_ended(QUIET_TIMEOUT_S):
            self._hold(self._handover, self._exchange)
