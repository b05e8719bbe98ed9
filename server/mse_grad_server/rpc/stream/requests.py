"""Open requests of one stream, and the effect of headers, chunks and cancellations on them. No I/O, no waiting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mse_grad.codec import Chunk, Header, SharedRange, StreamRequest
from mse_grad.methods import STREAM_GRADIENTS
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import elements
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.engine.engine import Engine
from mse_grad_server.engine.shares import Share
from mse_grad_server.errors import (
    Cancelled,
    DeadlineExceeded,
    ServerBusy,
    ServerError,
    TooManyOpenRequests,
)
from mse_grad_server.metrics.collectors import TransferCounter
from mse_grad_server.metrics.recorder import Origin, Recorder
from mse_grad_server.rpc.request_rules import check_chunk, check_header, check_shared, ids_in_shared_memory
from mse_grad_server.rpc.stream.batch import Batch
from mse_grad_server.rpc.stream.errors import RequestErrors, id_invalid, id_unknown
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.rpc.stream.open_request import OpenRequest, RequestAdmission, origin_of
from mse_grad_server.shared_memory.segments import Segments, SharedOperands

__all__ = ["OpenRequests"]

# Most errors of a message for each request that may be open: all may fail at once, and as many new ones be refused.
_ERRORS_PER_OPEN_REQUEST = 2
_NO_IDS: frozenset[int] = frozenset()


class OpenRequests:
    """Requests of a stream from header to end, each admitted once and released once; belongs to the event loop.

    Args:
        engine: Admits requests.
        share: What the client of the stream holds.
        recorder: Counts and logs the end of each request.
        limits: Limits of the stream.
        name_of: Returns the server's request id for the id of a request.
        transferred: Counter of the operands and gradients in messages.
        segments: Segments of shared memory; None if the stream has none.
        now: Returns the time.
        begin: Called with the chunks of a request that has waited for admission, once it was admitted.

    Attributes:
        errors: Errors of requests, for the stream to send.
        last_id: Greatest id of an accepted header.
        next_deadline_s: Lower bound of the times when open requests fail, by their deadline or their wait.
    """

    def __init__(
        self,
        engine: Engine,
        share: Share,
        recorder: Recorder,
        limits: StreamLimits,
        *,
        name_of: Callable[[int], str],
        transferred: TransferCounter,
        segments: Segments | None = None,
        now: Callable[[], float],
        begin: Callable[[Batch], None],
    ) -> None:
        self.errors = RequestErrors(most_of_message=_ERRORS_PER_OPEN_REQUEST * limits.max_open_requests)
        self.last_id = 0
        self.next_deadline_s = math.inf
        self._admission = RequestAdmission(engine, share, limits)
        self._recorder = recorder
        self._limits = limits
        self._name_of = name_of
        self._transferred = transferred
        self._segments = segments
        self._now = now
        self._begin = begin
        self._open: dict[int, OpenRequest] = {}
        self._accepts_headers = True

    def __len__(self) -> int:
        return len(self._open)

    def has_waiting(self) -> bool:
        """Whether a request waits for admission."""
        return any(request.wait is not None for request in self._open.values())

    def silent_since_s(self) -> float | None:
        """Returns the time of the last chunk if every open request waits for more; else None."""
        is_silent = all(request.waits_for_chunks for request in self._open.values())
        return max((request.progress_s for request in self._open.values()), default=None) if is_silent else None

    def handle(self, frame: StreamRequest, now_s: float, *, whole: StreamRequest | None = None) -> Batch:
        """Handles one message: headers, then chunks, then cancellations; returns the batch to compute.

        Args:
            frame: The message, or a part of it.
            now_s: Current time.
            whole: The whole message if `frame` is a part; the caller then sets `errors.of_message` to 0 before.

        Raises:
            InvalidArgument: MESSAGE_MALFORMED, if almost everything in a large message is an error.
        """
        if whole is None:
            whole = frame
            self.errors.of_message = 0
        batch = Batch()
        if frame.headers:
            shared = _NO_IDS if self._segments is None else ids_in_shared_memory(whole.chunks)
            for header in frame.headers:
                self._handle_header(header, whole.chunks, batch, now_s, is_shared=header.id in shared)
        for chunk in frame.chunks:
            self._handle_chunk(chunk, batch, now_s)
        for id in frame.cancel_ids:
            self._handle_cancel(id, now_s)
        return batch

    def settle(self, batch: Batch, now_s: float) -> None:
        """Ends the requests that the computed `batch` completed or failed."""
        recorder = self._recorder
        batch.count(recorder, self._transferred)
        for request, error in batch.failures:
            if request.is_open:
                self._fail(request, error, now_s)
        for request, n in batch.answered:
            if not request.is_open:
                continue
            request.computed += n
            request.progress_s = now_s
            if request.origin.timeline is not None:
                batch.trace(request.origin.timeline, has_kernel=recorder.counts_kernel)
            if request.computed == request.work.count:
                self._end(request)
                recorder.succeeded(
                    STREAM_GRADIENTS,
                    request.work.spec,
                    seconds=now_s - request.began_s,
                    origin=request.origin,
                    margin_s=request.deadline_s - now_s,
                )

    def expire(self, now_s: float, *, silent_since_s: float) -> None:
        """Fails the requests that are past their deadline, and those without a chunk since `silent_since_s`."""
        silence = DeadlineExceeded(f"no chunk arrived for {self._limits.stall_timeout_s:g} s")
        self._expire(now_s, silent_since_s, silence)

    def give_way(self, now_s: float) -> None:
        """Fails the requests without a chunk for `give_way_s`: others wait for the bytes that they reserved."""
        silence_s = self._limits.give_way_s
        silence = ServerBusy(f"no chunk arrived for {silence_s:g} s while other requests waited; send it again")
        self._expire(now_s, now_s - silence_s, silence)

    def _expire(self, now_s: float, silent_since_s: float, silence: ServerError) -> None:
        next_deadline_s = math.inf
        for request in list(self._open.values()):
            error = request.overdue(now_s, silent_since_s=silent_since_s, silence=silence)
            if error is not None:
                self._fail(request, error, now_s)
                continue
            next_deadline_s = min(next_deadline_s, request.deadline_s)
            if request.wait is not None:
                next_deadline_s = min(next_deadline_s, request.wait.end_s)
        self.next_deadline_s = next_deadline_s

    def stop_accepting(self) -> None:
        """Ignores headers from now on, and their chunks and cancellations."""
        self._accepts_headers = False

    def close(self, error: BaseException, now_s: float) -> None:
        """Ends every open request with `error`, the error of the whole stream."""
        self._begin = lambda batch: None  # it holds the stream, and the stream holds this object
        for request in list(self._open.values()):
            self._end(request)
            self._recorder.ended_with_stream(
                STREAM_GRADIENTS, request.work.spec, error, seconds=now_s - request.began_s
            )
        self.errors.clear()

    def _handle_header(
        self, header: Header, chunks: Sequence[Chunk], batch: Batch, now_s: float, *, is_shared: bool
    ) -> None:
        id = header.id
        if id <= self.last_id:
            self._reject_header(header, now_s)
            return
        if not self._accepts_headers:
            return
        self.last_id = id
        origin = origin_of(header, self._recorder, now_s, name_of=self._name_of)
        spec = None
        try:
            work = check_header(header)
            spec = work.spec
            if len(self._open) >= self._limits.max_open_requests:
                raise TooManyOpenRequests(f"this stream has {len(self._open)} open requests, the most that it accepts")
            admitted_bytes = min(work.operand_bytes, self._limits.window_bytes)
            deadline_s = now_s + header.time_left_us / 1e6 if header.time_left_us else math.inf
            scalar_dout = None if header.scalar_dout is None else elements(header.scalar_dout, spec.dtype)
            request = OpenRequest(id, origin, work, scalar_dout, admitted_bytes, now_s, deadline_s, now_s, is_shared)
            self._admission.admit(request, header, chunks, on_admitted=self._admitted)
            if request.wait is not None:
                self.next_deadline_s = min(self.next_deadline_s, request.wait.end_s)
        except (ContractError, ServerError) as error:
            self._reject(id, origin, error, spec)
            return
        self._open[id] = request
        if deadline_s < self.next_deadline_s:
            self.next_deadline_s = deadline_s
        if not work.count:
            batch.add_empty(request)

    def _admitted(self, request: OpenRequest) -> None:
        wait, request.wait = request.wait, None
        assert wait is not None
        now_s, batch = self._now(), Batch()
        request.progress_s = now_s
        try:
            for offset, shared in wait.chunks:
                batch.add_shared(request, offset, self._operands(request, shared))
        except ContractError as error:
            self._fail(request, error, now_s)
        self._begin(batch)

    def _handle_chunk(self, chunk: Chunk, batch: Batch, now_s: float) -> None:
        request = self._open.get(chunk.id)
        if request is None:
            self._reject_unknown(chunk.id, field="chunks.id")
            return
        try:
            if chunk.shared is not None:
                self._handle_shared(request, chunk, chunk.shared, batch)
                n = chunk.shared.elements
            else:
                n = check_chunk(chunk, request.work, received=request.received)
                if request.wait is not None:
                    raise ServerBusy(
                        "the request is waiting for admission; until then the server stores no operands for it"
                    )
                batch.add(request, chunk, n)
        except (ContractError, ServerBusy) as error:
            self._fail(request, error, now_s)
            return
        request.received += n
        request.progress_s = now_s

    def _handle_shared(self, request: OpenRequest, chunk: Chunk, shared: SharedRange, batch: Batch) -> None:
        check_shared(chunk, shared, request.work, received=request.received)
        if request.wait is None:
            batch.add_shared(request, chunk.offset, self._operands(request, shared))
        else:
            request.wait.add(chunk.offset, shared)

    def _operands(self, request: OpenRequest, shared: SharedRange) -> SharedOperands:
        if self._segments is None:
            raise ContractError(
                Reason.SEGMENT_UNKNOWN, "shared", "this stream takes no shared memory; send the operands in the message"
            )
        spec = request.work.spec
        return self._segments.operands(shared, spec.dtype, scalar_dout=spec.scalar_dout)

    def _handle_cancel(self, id: int, now_s: float) -> None:
        request = self._open.get(id)
        if request is None:
            self._reject_unknown(id, field="cancel_ids")
        else:
            self._fail(request, Cancelled("the caller cancelled the request"), now_s)

    def _reject_header(self, header: Header, now_s: float) -> None:
        error = id_invalid(header.id, last_id=self.last_id)
        request = self._open.get(header.id)
        if request is not None:
            self._fail(request, error, now_s)
            return
        self._reject(header.id, origin_of(header, self._recorder, now_s, name_of=self._name_of), error)

    def _reject_unknown(self, id: int, *, field: str) -> None:
        # An id up to the last one belongs to a request that has ended, which the client may not know yet. After GoAway,
        # a greater id belongs to a header that was ignored.
        if 0 < id <= self.last_id or not self._accepts_headers:
            return
        self._reject(id, Origin(self._name_of(id)), id_unknown(id, field=field))

    def _reject(self, id: int, origin: Origin, error: BaseException, spec: GradientSpec | None = None) -> None:
        self.errors.add(id, origin.request_id, error)
        self._recorder.failed(STREAM_GRADIENTS, spec, error, seconds=0.0, origin=origin)

    def _fail(self, request: OpenRequest, error: BaseException, now_s: float) -> None:
        self._end(request)
        self.errors.add(request.id, request.origin.request_id, error)
        seconds = now_s - request.began_s
        self._recorder.failed(STREAM_GRADIENTS, request.work.spec, error, seconds=seconds, origin=request.origin)

    def _end(self, request: OpenRequest) -> None:
        request.is_open = False
        del self._open[request.id]
        self._admission.release(request)
