"""The open requests of one stream: what headers, chunks and cancellations do to them. No I/O, no waiting."""

from __future__ import annotations

import math
from collections.abc import Callable

from mse_grad.frame import Chunk, Header, SharedRange, StreamRequest
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import elements
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.batch import Batch, OpenRequest
from mse_grad_server.call import is_request_id
from mse_grad_server.check import check_chunk, check_header, check_shared
from mse_grad_server.config import Settings
from mse_grad_server.engine import Engine
from mse_grad_server.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ServerError,
    TooManyOpenRequests,
    to_status,
)
from mse_grad_server.recorder import Recorder
from mse_grad_server.segments import Segments
from mse_grad_server.trace import trace_id_of
from mse_grad_server.traffic import Tally

__all__ = ["METHOD", "OpenRequests"]

METHOD = "StreamGradients"

# As many as may be open can fail at once, and as many again may be refused beside them.
_ERRORS_PER_OPEN_REQUEST = 2


class OpenRequests:
    """Every request of a stream from its header to its end; each is admitted once and released once.

    Errors of requests are gathered and given out by `take_errors`. Belongs to the event loop.

    Attributes:
        last_id: The greatest id that was taken.
        next_deadline_s: No later than the first deadline of an open request.
    """

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        settings: Settings,
        *,
        name_of: Callable[[int], str],
        tally: Tally,
        segments: Segments | None = None,
    ) -> None:
        self.last_id = 0
        self.next_deadline_s = math.inf
        self._engine = engine
        self._recorder = recorder
        self._settings = settings
        self._window_bytes = settings.window_bytes
        self._name_of = name_of
        self._tally = tally
        self._segments = segments
        self._open: dict[int, OpenRequest] = {}
        self._errors: list[pb.GradientError] = []
        self._takes_headers = True

    def __len__(self) -> int:
        return len(self._open)

    def take(self, frame: StreamRequest, now_s: float) -> Batch:
        """Takes one message: headers, then chunks, then cancellations; returns what is to be computed.

        Raises:
            InvalidArgument: MESSAGE_MALFORMED, where almost everything in a large message is an error.
        """
        batch = Batch()
        for header in frame.headers:
            self._take_header(header, batch, now_s)
        for chunk in frame.chunks:
            self._take_chunk(chunk, batch, now_s)
        for id in frame.cancel_ids:
            self._take_cancel(id, now_s)
        return batch

    def settle(self, batch: Batch, now_s: float) -> None:
        """Ends the requests that `batch`, once computed, completed or failed."""
        recorder = self._recorder
        recorder.computed(batch.elements, encode_s=batch.encode_s, kernel_s=batch.kernel_s)
        if batch.operand_bytes or not batch.shared_elements:
            self._tally.count(
                batch.operand_elements,
                batch.elements - batch.shared_elements,
                batch.operand_bytes,
                batch.gradient_bytes - batch.shared_bytes,
            )
        if batch.shared_elements:
            recorder.computed_in_shared_memory(batch.shared_elements)
            recorder.traffic.shared_memory.count(
                batch.shared_operand_elements, batch.shared_elements, batch.shared_operand_bytes, batch.shared_bytes
            )
        for request, error in batch.failures:
            if request.is_open:
                self._fail(request, error, now_s)
        for request, n in batch.answered:
            if not request.is_open:
                continue
            request.computed += n
            request.progress_s = now_s
            if request.computed == request.work.count:
                self._end(request)
                recorder.succeeded(
                    METHOD,
                    request.work.spec,
                    seconds=now_s - request.began_s,
                    request_id=request.request_id,
                    margin_s=request.deadline_s - now_s,
                    trace_id=request.trace_id,
                )

    def expire(self, now_s: float, *, silent_since_s: float) -> None:
        """Fails the requests whose time ran out, and those for which nothing came after `silent_since_s`."""
        next_deadline_s = math.inf
        for request in list(self._open.values()):
            came = f"{request.received} of {request.work.count} elements had come"
            if request.deadline_s <= now_s:
                self._fail(request, DeadlineExceeded(f"the time that the caller gave ran out; {came}"), now_s)
            elif request.progress_s <= silent_since_s and request.received < request.work.count:
                silence_s = self._settings.stall_timeout_s
                self._fail(request, DeadlineExceeded(f"no chunk came for {silence_s:g} s; {came}"), now_s)
            else:
                next_deadline_s = min(next_deadline_s, request.deadline_s)
        self.next_deadline_s = next_deadline_s

    def stop_taking(self) -> None:
        """Passes over headers from now on, and over chunks and cancellations that belong to them."""
        self._takes_headers = False

    def take_errors(self) -> bytes:
        """Returns the message with the errors since the last call, empty where there is none."""
        if not self._errors:
            return b""
        message = pb.StreamGradientsResponse(errors=self._errors).SerializeToString()
        self._errors.clear()
        return message

    def close(self, error: BaseException, now_s: float) -> None:
        """Ends every request that is still open with `error`, that of the whole stream."""
        for request in list(self._open.values()):
            self._end(request)
            self._recorder.ended_with_stream(METHOD, request.work.spec, error, seconds=now_s - request.began_s)
        self._errors.clear()

    def _take_header(self, header: Header, batch: Batch, now_s: float) -> None:
        id = header.id
        if id <= self.last_id:
            self._reject_header(header, now_s)
            return
        if not self._takes_headers:
            return
        self.last_id = id
        request_id = self._usable(header)
        spec = None
        try:
            work = check_header(header)
            spec = work.spec
            if len(self._open) >= self._settings.max_open_requests:
                raise TooManyOpenRequests(f"{len(self._open)} requests are open on this stream; it takes no more")
            admitted_bytes = min(work.operand_bytes, self._window_bytes)
            self._engine.admit(admitted_bytes, spec.dtype)
        except (ContractError, ServerError) as error:
            self._tell(id, request_id, error)
            self._recorder.failed(METHOD, spec, error, seconds=0.0, request_id=request_id)
            return
        deadline_s = now_s + header.time_left_us / 1e6 if header.time_left_us else math.inf
        scalar_dout = None if header.scalar_dout is None else elements(header.scalar_dout, work.spec.dtype)
        trace_id = trace_id_of(header.traceparent) if header.traceparent else ""
        request = OpenRequest(id, request_id, work, scalar_dout, admitted_bytes, now_s, deadline_s, now_s, trace_id)
        self._open[id] = request
        if deadline_s < self.next_deadline_s:
            self.next_deadline_s = deadline_s
        if not work.count:
            batch.add_empty(request)

    def _take_chunk(self, chunk: Chunk, batch: Batch, now_s: float) -> None:
        request = self._open.get(chunk.id)
        if request is None:
            self._reject_unknown(chunk.id, field="chunks.id")
            return
        try:
            if chunk.shared is not None:
                self._take_shared(request, chunk, chunk.shared, batch)
                n = chunk.shared.elements
            else:
                n = check_chunk(chunk, request.work, received=request.received)
                batch.add(request, chunk, n)
        except ContractError as error:
            self._fail(request, error, now_s)
            return
        request.received += n
        request.progress_s = now_s

    def _take_shared(self, request: OpenRequest, chunk: Chunk, shared: SharedRange, batch: Batch) -> None:
        spec = request.work.spec
        check_shared(chunk, shared, request.work, received=request.received)
        if self._segments is None:
            raise ContractError(
                Reason.SEGMENT_UNKNOWN, "shared", "this stream takes no shared memory; send the operands in the message"
            )
        operands = self._segments.operands(shared, spec.dtype, scalar_dout=spec.scalar_dout)
        batch.add_shared(request, chunk.offset, operands)

    def _take_cancel(self, id: int, now_s: float) -> None:
        request = self._open.get(id)
        if request is None:
            self._reject_unknown(id, field="cancel_ids")
        else:
            self._fail(request, Cancelled("the caller cancelled the request"), now_s)

    def _reject_header(self, header: Header, now_s: float) -> None:
        error = InvalidArgument(
            f"a header has id {header.id}; ids are at least 1 and ascend, and the last one of this stream was "
            f"{self.last_id}",
            reason=Reason.REQUEST_ID_INVALID,
            field="headers.id",
        )
        request = self._open.get(header.id)
        if request is not None:
            self._fail(request, error, now_s)
            return
        request_id = self._usable(header)
        self._tell(header.id, request_id, error)
        self._recorder.failed(METHOD, None, error, seconds=0.0, request_id=request_id)

    def _reject_unknown(self, id: int, *, field: str) -> None:
        # An id up to the last one belongs to a request that ended, of which the client may not know yet. After GoAway a
        # greater one belongs to a header that was passed over.
        if 0 < id <= self.last_id or not self._takes_headers:
            return
        error = InvalidArgument(
            f"{field} names request {id}, which no header opened", reason=Reason.REQUEST_ID_UNKNOWN, field=field
        )
        request_id = self._name_of(id)
        self._tell(id, request_id, error)
        self._recorder.failed(METHOD, None, error, seconds=0.0, request_id=request_id)

    def _fail(self, request: OpenRequest, error: BaseException, now_s: float) -> None:
        self._end(request)
        self._tell(request.id, request.request_id, error)
        seconds = now_s - request.began_s
        self._recorder.failed(METHOD, request.work.spec, error, seconds=seconds, request_id=request.request_id)

    def _end(self, request: OpenRequest) -> None:
        request.is_open = False
        del self._open[request.id]
        self._engine.release(request.admitted_bytes)

    def _usable(self, header: Header) -> str:
        return header.request_id if is_request_id(header.request_id) else self._name_of(header.id)

    def _tell(self, id: int, request_id: str, error: BaseException) -> None:
        # A message of millions of headers without sense must not become millions of answers.
        most = _ERRORS_PER_OPEN_REQUEST * self._settings.max_open_requests
        if len(self._errors) >= most:
            raise InvalidArgument(
                f"the message has more than {most} errors, which no client makes by mistake",
                reason=Reason.MESSAGE_MALFORMED,
                field="message",
            )
        self._errors.append(pb.GradientError(id=id, status=to_status(error, request_id=request_id)))
