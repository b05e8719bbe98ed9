"""How one connection shares memory with the worker behind it, where that is on this host."""

from __future__ import annotations

import threading

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError
from mse_grad_client.handover import Handover, HandoverFailed
from mse_grad_client.lanes import is_worth_sharing, shared_exchange
from mse_grad_client.options import ClientOptions
from mse_grad_client.region import Region
from mse_grad_client.request import GradientRequest
from mse_grad_client.shared_exchange import SharedExchange
from mse_grad_client.stream import Stream

__all__ = ["Sharing"]

# How long a request that failed waits for the server's word that it writes to the gradient no more. Longer than a
# kernel runs; a server that does not say so in this time hangs.
_QUIET_TIMEOUT_S = 0.5
# The server's words for memory that it does not have, or not any more.
_NOT_SHARED = (Reason.SEGMENT_UNKNOWN, Reason.SHARED_RANGE_INVALID)


class Sharing:
    """Hands a region over for each stream of the connection. Any number of threads.

    Whatever keeps it from that, gradients go over the stream instead.
    """

    def __init__(self, region: Region, options: ClientOptions) -> None:
        self._region = region
        self._options = options
        self._lock = threading.Lock()
        self._handovers: dict[Stream, Handover | None] = {}
        # What a server may still write to: its room must not be another array's.
        self._held: list[tuple[Handover, SharedExchange]] = []

    def run(self, stream: Stream, request: GradientRequest, *, request_id: str, deadline: float | None) -> bool:
        """Fills the gradient of `request` in shared memory; returns False where it has to take another way.

        Args:
            stream: Open.
            request: What is asked for.
            request_id: Its name.
            deadline: When to give up, of time.monotonic.

        Raises:
            MseGradError: As over the stream.
        """
        if not is_worth_sharing(request, self._region, self._options):
            return False
        handover = self._handover(stream)
        if handover is None or not handover.is_open:
            return False
        handover.withdraw_gone(self._region)
        exchange = shared_exchange(
            request, self._region, handover, self._options, request_id=request_id, deadline=deadline
        )
        if exchange is None:
            return False
        id = stream.start(exchange)
        try:
            _run(stream, id, exchange)
        except BaseException as error:
            self._await_quiet(stream, handover, exchange)
            if not isinstance(error, MseGradError) or error.reason not in _NOT_SHARED:
                raise
            handover.give_up()
            return False
        return True

    def is_open(self, stream: Stream) -> bool:
        """Returns whether memory is shared with the worker behind the open `stream`."""
        handover = self._handover(stream)
        return handover is not None and handover.is_open

    def close(self) -> None:
        """Ends every handover; the streams have ended, and the next one begins another."""
        with self._lock:
            for handover in self._handovers.values():
                if handover is not None:
                    handover.wait_ended(_QUIET_TIMEOUT_S)
                    handover.close()
            self._handovers.clear()
            self._held.clear()

    def _handover(self, stream: Stream) -> Handover | None:
        try:
            return self._handovers[stream]
        except KeyError:
            pass
        with self._lock:
            if stream not in self._handovers:
                self._forget_ended()
                self._handovers[stream] = _begun(stream)
            return self._handovers[stream]

    def _forget_ended(self) -> None:
        for stream, handover in list(self._handovers.items()):
            if stream.has_ended and (handover is None or handover.wait_ended(0)):
                del self._handovers[stream]
                if handover is not None:
                    handover.close()
        self._held = [
            (handover, exchange)
            for handover, exchange in self._held
            if not (handover.wait_ended(0) or exchange.wait_quiet(0))
        ]

    def _await_quiet(self, stream: Stream, handover: Handover, exchange: SharedExchange) -> None:
        if not stream.has_ended and exchange.wait_quiet(_QUIET_TIMEOUT_S):
            return
        if not handover.wait_ended(_QUIET_TIMEOUT_S):
            with self._lock:
                self._held.append((handover, exchange))


def _begun(stream: Stream) -> Handover | None:
    if stream.opened is None:
        return None
    try:
        return Handover(stream.opened)
    except HandoverFailed:
        return None


def _run(stream: Stream, id: int, exchange: SharedExchange) -> None:
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
