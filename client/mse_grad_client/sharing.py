"""How one connection shares memory with the worker behind it, where that is on this host."""

from __future__ import annotations

import threading

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError
from mse_grad_client.handover import Handover, HandoverFailed
from mse_grad_client.region import Place, Region
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
    """Hands a region over to whichever stream the connection has. Any number of threads.

    Whatever keeps it from that, gradients go over the stream instead.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._handover: Handover | None = None

    def run(self, stream: Stream, request: GradientRequest, *, request_id: str, deadline: float | None) -> bool:
        """Fills the gradient of `request` in shared memory; returns False, having done nothing, where it cannot.

        Raises:
            MseGradError: As over the stream.
        """
        region = self._region
        region.settle()
        if region.is_empty or not request.count:
            return False
        places = self._places(request)
        if places is None:
            return False
        handover = self.handover(stream)
        if handover is None or not all(handover.has(place.segment) for place in places if place is not None):
            return False
        predict, label, dout, y = places
        exchange = SharedExchange(
            request, request_id=request_id, deadline=deadline, predict=predict, label=label, dout=dout, y=y
        )
        try:
            stream.finish(stream.start(exchange), exchange)
        except BaseException as error:
            if not exchange.wait_quiet(_QUIET_TIMEOUT_S):
                handover.wait_ended(_QUIET_TIMEOUT_S)
            if isinstance(error, MseGradError) and error.reason in _NOT_SHARED:
                handover.close()
                return False
            raise
        return True

    def is_open(self, stream: Stream) -> bool:
        """Returns whether memory is shared with the worker behind the opened `stream`."""
        handover = self.handover(stream)
        return handover is not None and handover.is_open

    def handover(self, stream: Stream) -> Handover | None:
        """Returns the handover for the opened `stream`, or None where there is none to be had."""
        if self._stream is stream:
            return self._handover
        with self._lock:
            if self._stream is not stream:
                self._close()
                opened = stream.opened
                try:
                    self._handover = None if opened is None else Handover(opened)
                except HandoverFailed:
                    self._handover = None
                self._stream = stream
            return self._handover

    def close(self) -> None:
        """Ends the handover; the next stream begins another one."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        handover, self._handover, self._stream = self._handover, None, None
        if handover is not None:
            handover.close()

    def _places(self, request: GradientRequest) -> tuple[Place, Place, Place | None, Place] | None:
        find = self._region.find
        predict = find(request.predict)
        label = predict and find(request.label)
        y = label and find(request.y)
        if predict is None or label is None or y is None:
            return None
        if request.scalar_dout:
            return predict, label, None, y
        dout = find(request.dout)
        return None if dout is None else (predict, label, dout, y)
