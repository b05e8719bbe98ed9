"""Service of a fake server: streams and unary RPCs, answered by the formula, or as the test wants."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from typing_extensions import override

from mse_grad import formula
from mse_grad.codec import (
    Chunk,
    Header,
    decode_stream_request,
    decode_unary_request,
    open_results,
    open_unary_response,
)
from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO
from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, Reduction, dtype_of_wire, elements
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.version import VERSION
from mse_grad_client.stream.call import EndedCall, Metadata
from mse_grad_client.testing.channel import FakeCall, Service
from mse_grad_client.testing.records import RecordedRequest, Refusal, record_of_header, record_of_unary

__all__ = ["ADDRESS", "FakeService"]

ADDRESS = "fake-server:50051"
"""The address of every fake server."""

_CANCELLED = Refusal(Reason.CANCELLED, "the caller cancelled the request")
_DRAINING = Refusal(Reason.DRAINING, "the test drains this server")
_LIMITS = pb.Limits(
    max_unary_bytes=2**26,
    max_stream_message_bytes=2**24,
    window_chunks=8,
    chunk_bytes=2**19,
    max_open_requests=2**20,
    max_in_flight_bytes=2**40,
)


@dataclass(eq=False)
class _Open:
    call: FakeCall
    header: Header
    record: RecordedRequest
    count: int
    answered: int = 0


class FakeService(Service):
    """Answers the RPCs of channels in memory. Thread-safe.

    Attributes:
        requests: Every request that arrived, in order.
        refusals: Errors of the next requests.
        delay_s: Seconds from a request to its answer.
        released: Clear while answers are held back.
    """

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self.refusals: deque[Refusal] = deque()
        self.delay_s = 0.0
        self.released = threading.Event()
        self.released.set()
        self._arrived = threading.Condition(threading.RLock())
        self._is_draining = False
        self._deferred: deque[tuple[float, Callable[[], None]]] = deque()
        self._open: dict[tuple[FakeCall, int], _Open] = {}
        self._streams: dict[FakeCall, int] = {}  # with the last id of each

    def drain(self) -> None:
        """Tells all streams to go away, and refuses what comes."""
        with self._arrived:
            self._is_draining = True
            for call, last_id in self._streams.items():
                away = pb.GoAway(last_id=last_id, status=_DRAINING.status(""))
                call.send(pb.StreamGradientsResponse(go_away=away).SerializeToString())

    def resume(self) -> None:
        """Accepts requests again."""
        self._is_draining = False

    def disconnect(self) -> None:
        """Ends every stream with an error."""
        with self._arrived:
            for call in self._streams:
                call.end(EndedCall(grpc.StatusCode.UNAVAILABLE, "the test ended the stream"))
            for one in self._open.values():
                one.record.state = "failed"
            self._streams.clear()
            self._open.clear()

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Waits for `count` requests in all; returns whether they came in time."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.requests) >= count, timeout_s)

    @override
    def open(self, call: FakeCall, metadata: Metadata) -> None:
        with self._arrived:
            if self._is_draining:
                call.end(_DRAINING.ended(""))
                return
            self._streams[call] = 0
            opened = pb.StreamOpened(instance_id="fake", limits=_LIMITS)
            call.send(pb.StreamGradientsResponse(opened=opened).SerializeToString())

    @override
    def receive(self, call: FakeCall, message: bytes) -> None:
        frame = decode_stream_request(message)
        with self._arrived:
            for header in frame.headers:
                if not self._is_draining:
                    self._begin(call, header)
            for chunk in frame.chunks:
                one = self._open.get((call, chunk.id))
                if one is not None:
                    self._compute(one, chunk)
            for id in frame.cancel_ids:
                one = self._open.pop((call, id), None)
                if one is not None:
                    one.record.state = "cancelled"
                    _send_error(call, id, _CANCELLED, one.record)

    @override
    def client_done(self, call: FakeCall) -> None:
        with self._arrived:
            self._streams.pop(call, None)
            for key in [key for key in self._open if key[0] is call]:
                self._open.pop(key).record.state = "cancelled"
        if not call.has_ended:
            call.end()

    @override
    def unary(self, method: str, message: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        if method == GET_SERVER_INFO:
            return self._info()
        if method != COMPUTE_GRADIENT:
            raise EndedCall(grpc.StatusCode.UNIMPLEMENTED, f"a fake server has no {method}")
        request = decode_unary_request(message)
        record = record_of_unary(request, metadata)
        refusal = self._record(record)
        if refusal is not None:
            raise refusal.ended(record.request_id)
        predict, dtype = request.predict, dtype_of_wire(request.predict.dtype, field="predict")
        answer, y = open_unary_response(dtype.wire, predict.shape, len(predict.data))
        c = _coefficient(request.reduction, request.numel, predict.shape, predict.dtype)
        operands = (elements(one.data, dtype) for one in (predict, request.label, request.dout))
        formula.gradient_into(elements(y, dtype), *operands, c=c, dtype=dtype)
        left_s = math.inf if timeout_s is None else timeout_s
        is_late = self.delay_s > left_s or not self.released.wait(timeout_s)
        time.sleep(min(self.delay_s, left_s))
        record.state = "cancelled" if is_late else "answered"
        if is_late:
            raise EndedCall(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return answer

    def _begin(self, call: FakeCall, header: Header) -> None:
        record = record_of_header(header)
        self._streams[call] = header.id
        refusal = self._record(record)
        if refusal is not None:
            _send_error(call, header.id, refusal, record)
            return
        one = _Open(call, header, record, math.prod(header.shape) * record.tensors)
        self._open[call, header.id] = one
        if not one.count:
            self._compute(one, Chunk(header.id, 0, b"", b"", b""))

    def _record(self, record: RecordedRequest) -> Refusal | None:
        """Keeps a new request; returns why it is refused, if it is."""
        with self._arrived:
            self.requests.append(record)
            self._arrived.notify_all()
            refusal = _DRAINING if self._is_draining else None
            if self.refusals:
                refusal = self.refusals.popleft()
            if refusal is not None:
                record.state = "failed"
            return refusal

    def _compute(self, one: _Open, chunk: Chunk) -> None:
        header = one.header
        dtype = dtype_of_wire(header.dtype, field="dtype")
        answer, (y,) = open_results([(header.id, chunk.offset, len(chunk.predict), False)])
        predict, label = elements(chunk.predict, dtype), elements(chunk.label, dtype)
        if predict.size:
            dout = elements(chunk.dout if header.scalar_dout is None else header.scalar_dout, dtype)
            c = _coefficient(header.reduction, header.numel, header.shape, header.dtype)
            formula.gradient_into(elements(y, dtype), predict, label, dout, c=c, dtype=dtype)
        one.answered += predict.size
        is_last = one.answered == one.count
        self._later(lambda: self._answer(one, answer, is_last=is_last))

    def _answer(self, one: _Open, answer: bytes, *, is_last: bool) -> None:
        with self._arrived:
            if self._open.get((one.call, one.header.id)) is not one:
                return  # it was cancelled, or its stream has ended
            if is_last:
                del self._open[one.call, one.header.id]
                one.record.state = "answered"
            one.call.send(answer)

    def _later(self, answer: Callable[[], None]) -> None:
        """Sends an answer when the test allows it, in the order of the requests."""
        if self.released.is_set() and not self.delay_s and not self._deferred:
            answer()
            return
        self._deferred.append((time.monotonic() + self.delay_s, answer))
        if len(self._deferred) == 1:
            threading.Thread(target=self._answer_deferred, name="mse-grad-fake-answers", daemon=True).start()

    def _answer_deferred(self) -> None:
        is_done = False
        while not is_done:
            due_s, answer = self._deferred[0]
            self.released.wait()
            time.sleep(max(0.0, due_s - time.monotonic()))
            answer()
            with self._arrived:
                self._deferred.popleft()
                is_done = not self._deferred

    def _info(self) -> bytes:
        state = pb.WORKER_STATE_DRAINING if self._is_draining else pb.WORKER_STATE_READY
        return pb.GetServerInfoResponse(
            version=VERSION,
            backend="cpu",
            device="fake",
            kernel_hash="fake",
            endpoints=[pb.Endpoint(address=ADDRESS, device="cpu", state=state)],
            dtypes=[dtype.wire for dtype in DTYPES],  # type: ignore[misc]
            limits=_LIMITS,
            numerics=pb.Numerics(intermediate="float32", subnormals=True, rounding="nearest-even", verified=True),
            instance_id="fake",
        ).SerializeToString()


def _send_error(call: FakeCall, id: int, refusal: Refusal, record: RecordedRequest) -> None:
    error = pb.GradientError(id=id, status=refusal.status(record.request_id))
    call.send(pb.StreamGradientsResponse(errors=[error]).SerializeToString())


def _coefficient(reduction: int, numel: int, shape: Sequence[int], dtype: int) -> float:
    whole = max(1, numel or math.prod(shape))
    return formula.coefficient(Reduction.of_wire(reduction), whole, dtype_of_wire(dtype, field="dtype"))
