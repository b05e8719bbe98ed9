"""A request on one stream: chunks out, answers in."""

from __future__ import annotations

import copy
import threading
import time

from mse_grad.codec import Chunk, Header, MetadataEntry, Result
from mse_grad.reasons import Reason
from mse_grad_client.errors import Cancelled, DeadlineExceeded, InternalError, MseGradError
from mse_grad_client.interrupts import acquire
from mse_grad_client.request import GradientRequest

__all__ = ["Exchange"]


class Exchange:
    """Cuts a request into chunks and assembles the answers.

    The thread that reads the stream calls `receive` and `fail`; the caller's thread calls `wait` and `abandon`. After
    `wait` has returned or `abandon` was called, nothing writes to the request's gradient.

    Args:
        request: The request.
        request_id: Its name in the server's logs.
        deadline: Deadline of the caller on the clock of time.monotonic.
        chunk_elements: Elements of a chunk.
        window_chunks: Chunks that may be unanswered at a time.
        first_chunks: Chunks that may be unanswered at first, one more with each answer; None for the whole window.

    Attributes:
        task: The task that waits for the gradient; None if a thread does.
    """

    is_shared = False
    """Whether the server works in memory of this process."""

    def __init__(
        self,
        request: GradientRequest,
        *,
        request_id: str,
        deadline: float | None,
        chunk_elements: int,
        window_chunks: int,
        first_chunks: int | None = None,
    ) -> None:
        self._request = request
        self._request_id = request_id
        self._deadline = deadline
        self._chunk_elements = chunk_elements
        self._window_chunks = window_chunks
        self._first_chunks = first_chunks or window_chunks
        # One thread at a time changes each: the thread that queues chunks, and the thread that reads answers.
        self._sent_chunks = self._answered_chunks = 0
        self._sent = 0
        self._received = 0
        self._error: MseGradError | None = None
        self._abandoned = False
        self.task = request.task
        self._guard = threading.Lock()  # held while an answer is written; abandon waits for it
        self._ended = threading.Lock()  # a one-shot latch: the cheapest wait with a timeout that Python has
        self._ended.acquire()
        request.holder = self
        if request.is_cancelled:  # after `holder` was set, which a thread that cancels reads after it has set this
            raise Cancelled("the request was cancelled", reason=Reason.CANCELLED, request_id=request_id)

    @property
    def deadline(self) -> float | None:
        """Deadline of the caller on the clock of time.monotonic."""
        return self._deadline

    @property
    def has_deadline(self) -> bool:
        """Whether its caller may have to stop waiting before an answer comes: at a deadline, or when cancelled."""
        return self._deadline is not None or self._request.is_cancelled is not None

    def needs_caller(self) -> bool:
        """Whether the caller must act: the gradient is whole, the request failed, or the caller abandoned it."""
        return self._abandoned

    def header(self, id: int) -> Header:
        """Returns the header that opens the request on the stream under `id`."""
        request = self._request
        time_left_us = 0
        if self._deadline is not None:
            time_left_us = max(1, int((self._deadline - time.monotonic()) * 1e6))
        header = Header(
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
        call = request.call
        if call is not None:
            header.traceparent = call.traceparent
            header.metadata = tuple(MetadataEntry(key, value) for key, value in call.metadata.items())
        return header

    def first_chunks(self, id: int) -> list[Chunk]:
        """Returns the chunks of the first window."""
        chunks = []
        while (chunk := self.next_chunk(id)) is not None:
            chunks.append(chunk)
        return chunks

    def next_chunk(self, id: int) -> Chunk | None:
        """Returns the next chunk, views of the caller's arrays; None if no chunk may be sent now."""
        request, offset = self._request, self._sent
        if offset == request.count:
            return None
        open_chunks = min(self._first_chunks + self._answered_chunks, self._window_chunks)
        if self._sent_chunks - self._answered_chunks >= open_chunks:
            return None
        elements = min(self._chunk_elements, request.count - offset)
        self._sent += elements
        self._sent_chunks += 1
        size = request.dtype.itemsize_bytes
        part = slice(offset * size, (offset + elements) * size)
        return Chunk(
            id, offset, request.predict[part], request.label[part], b"" if request.scalar_dout else request.dout[part]
        )

    def receive(self, result: Result) -> bool:
        """Writes the gradient of one chunk; returns whether the request has ended with it."""
        request, received = self._request, self._received
        elements, rest = divmod(len(result.y), request.dtype.itemsize_bytes)
        with self._guard:
            if self._abandoned:
                return True
            if (
                result.offset != received
                or received + elements > self._sent
                or rest
                or (elements == 0 and request.count > 0)
            ):
                self._end(
                    InternalError(
                        f"the server answered {len(result.y)} bytes at element {result.offset}; "
                        f"expected elements from {received} to {self._sent} of {request.dtype.name}",
                        request_id=self._request_id,
                    )
                )
                return True
            request.fill(result.offset, result.y)
            self._received = received = received + elements
            self._answered_chunks += 1
            if received < request.count:
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

    def server_done(self) -> None:
        """Notes that the server has ended the request itself; `fail` follows. Only shared memory needs to know."""

    def wait(self) -> None:
        """Blocks until the gradient is whole.

        Raises:
            MseGradError: The request failed.
            DeadlineExceeded: The time ran out first; the caller must abandon the request.
        """
        # If this thread has read the answer itself, the lock is free.
        if not self._ended.acquire(blocking=False) and not acquire(self._ended, self._deadline):
            raise DeadlineExceeded(
                f"no gradient within the time given; {self._received} of {self._request.count} elements had arrived",
                reason=Reason.DEADLINE_EXCEEDED,
                request_id=self._request_id,
            )
        if self._error is not None:
            raise copy.copy(self._error)  # its traceback refers to this exchange: the error itself would be a cycle

    def abandon(self) -> None:
        """Ensures that nothing is written to the gradient from now on."""
        with self._guard:
            self._abandoned = True

    def revoke(self) -> None:
        """Ensures that nothing is written to the caller's gradient from now on; see request.Holder."""
        self.abandon()

    def _end(self, error: MseGradError | None) -> None:
        self._error = error
        self._abandoned = True
        self._ended.release()
        if self.task is not None:
            self.task.wake()
