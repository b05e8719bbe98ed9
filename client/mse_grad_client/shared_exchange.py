"""One request whose operands and gradient lie in memory that the server has mapped."""

from __future__ import annotations

import threading

from mse_grad.frame import Chunk, Result, SharedRange
from mse_grad_client.errors import InternalError
from mse_grad_client.exchange import Exchange
from mse_grad_client.region import Place
from mse_grad_client.request import GradientRequest

__all__ = ["SharedExchange"]


class SharedExchange(Exchange):
    """One chunk, whatever the size, of which nothing travels but where it lies; see Exchange.

    The server may still write to the gradient when nobody waits for it any more: `wait_quiet` tells when it has ended.
    """

    is_shared = True

    def __init__(
        self,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
        predict: Place,
        label: Place,
        dout: Place | None,
        y: Place,
    ) -> None:
        super().__init__(
            request, request_id=request_id, deadline=deadline, chunk_elements=request.count, window_chunks=1
        )
        self._places = (predict, label, dout, y)
        self._quiet = threading.Event()

    def next_chunk(self, id: int) -> Chunk | None:
        """See Exchange."""
        count = self._request.count
        if self._sent:
            return None
        self._sent = count
        predict, label, dout, y = self._places
        return Chunk(
            id,
            0,
            b"",
            b"",
            b"",
            SharedRange(
                count,
                predict.segment.number,
                predict.offset,
                label.segment.number,
                label.offset,
                0 if dout is None else dout.segment.number,
                0 if dout is None else dout.offset,
                y.segment.number,
                y.offset,
            ),
        )

    def take(self, result: Result) -> bool:
        """See Exchange; the gradient is there already."""
        self._quiet.set()
        with self._guard:
            if self._abandoned:
                return True
            self._received = self._sent
            error = None
            if result.offset or len(result.y):
                error = InternalError(
                    f"the server answered {len(result.y)} bytes at element {result.offset}; expected the word that the "
                    "gradient is in shared memory",
                    request_id=self._request_id,
                )
            self._end(error)
            return True

    def hear_last(self) -> None:
        """See Exchange."""
        self._quiet.set()

    def wait_quiet(self, timeout_s: float) -> bool:
        """Waits for the server's last word on the request; returns whether it came."""
        return self._quiet.wait(timeout_s)
