"""One request on its way through one stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from mse_grad.frame import Chunk, Header, Result
from mse_grad.reasons import Reason
from mse_grad_client.errors import DeadlineExceeded, InternalError, MseGradError
from mse_grad_client.request import GradientRequest

__all__ = ["Exchange"]


class Exchange:
    """Cuts a request into chunks and puts the answers together.

    The stream's reader thread calls `take` and `fail`, the caller's thread `wait` and `abandon`. After `wait` has
    returned or `abandon` was called, nothing writes to the request's gradient any more.
    """

    is_shared = False
    """Whether the server works in memory of this side."""

    def __init__(
        self,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
        chunk_elements: int,
        window_chunks: int,
    ) -> None:
        self._request = request
        self._request_id = request_id
        self._deadline = deadline
        self._chunk_elements = chunk_elements
        self._window_chunks = window_chunks
        self._sent = 0
        self._received = 0
        self._error: MseGradError | None = None
        self._abandoned = False
        self._guard = threading.Lock()  # held while an answer is written, so that abandon can wait for it
        self._ended = threading.Lock()  # a one-shot latch: the cheapest wait with a timeout that Python has
        self._ended.acquire()

    @property
    def has_deadline(self) -> bool:
        """Whether the time for it is bounded."""
        return self._deadline is not None

    @property
    def has_ended(self) -> bool:
        """Whether the gradient is whole, the request failed, or nobody waits for it any more."""
        return self._abandoned

    def header(self, id: int) -> Header:
        """Returns the header that opens the request on the stream under `id`."""
        request = self._request
        time_left_us = 0
        if self._deadline is not None:
            time_left_us = max(1, int((self._deadline - time.monotonic()) * 1e6))
        return Header(
            id,
            request.dtype.wire,
            request.shape,
            int(request.reduction),
            request.dout if request.scalar_dout else None,
            request.numel,
            time_left_us,
            self._request_id,
            tensors=0 if request.tensors == 1 else request.tensors,
        )

    def first_chunks(self, id: int) -> Iterator[Chunk]:
        """Yields the chunks of the first window."""
        for _ in range(self._window_chunks):
            chunk = self.next_chunk(id)
            if chunk is None:
                return
            yield chunk

    def next_chunk(self, id: int) -> Chunk | None:
        """Returns the next range of the operands as views of the caller's arrays, or None where all is sent."""
        request, offset = self._request, self._sent
        elements = min(self._chunk_elements, request.count - offset)
        if elements == 0:
            return None
        self._sent += elements
        size = request.dtype.itemsize_bytes
        part = slice(offset * size, (offset + elements) * size)
        return Chunk(
            id, offset, request.predict[part], request.label[part], b"" if request.scalar_dout else request.dout[part]
        )

    def take(self, result: Result) -> bool:
        """Writes the gradient of one range; returns whether the request has ended with it."""
        request = self._request
        size = request.dtype.itemsize_bytes
        elements = len(result.y) // size
        with self._guard:
            if self._abandoned:
                return True
            if (
                result.offset != self._received
                or self._received + elements > self._sent
                or len(result.y) % size
                or (elements == 0 and request.count > 0)
            ):
                self._end(
                    InternalError(
                        f"the server answered {len(result.y)} bytes at element {result.offset}; "
                        f"expected elements from {self._received} to {self._sent} of {request.dtype.name}",
                        request_id=self._request_id,
                    )
                )
                return True
            request.fill(result.offset, result.y)
            self._received += elements
            if self._received < request.count:
                return False
            self._end(None)
            return True

    def fail(self, error: MseGradError) -> None:
        """Ends the request without a gradient."""
        with self._guard:
            if not self._abandoned:
                if not error.request_id:
                    error.request_id = self._request_id
                self._end(error)

    def hear_last(self) -> None:
        """The server has said its last word on the request: `fail` follows with what it was."""

    def wait(self) -> None:
        """Blocks until the gradient is whole.

        Raises:
            MseGradError: The request failed.
            DeadlineExceeded: Its time ran out first; the caller must abandon it.
        """
        timeout_s = -1.0 if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if not self._ended.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
            raise DeadlineExceeded(
                f"no gradient within the time given; {self._received} of {self._request.count} elements had arrived",
                reason=Reason.DEADLINE_EXCEEDED,
                request_id=self._request_id,
            )
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Makes sure that nothing is written to the gradient from now on."""
        with self._guard:
            self._abandoned = True

    def _end(self, error: MseGradError | None) -> None:
        self._error = error
        self._abandoned = True
        self._ended.release()
