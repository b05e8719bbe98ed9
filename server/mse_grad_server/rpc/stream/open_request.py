"""One open request of a stream, its admission, and its wait for it if its operands lie in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from typing_extensions import override

from mse_grad.codec import Chunk, Header, SharedRange
from mse_grad.metadata import is_request_id
from mse_grad.tensor import Array
from mse_grad_server.backends.progress import Phase, late
from mse_grad_server.engine.admission import Waiting
from mse_grad_server.engine.engine import Engine
from mse_grad_server.engine.fair_queue import due_s
from mse_grad_server.engine.shares import Share
from mse_grad_server.errors import DeadlineExceeded, ServerBusy, ServerError
from mse_grad_server.metrics.recorder import Origin, Recorder
from mse_grad_server.rpc.admission.call import trace_id_of
from mse_grad_server.rpc.request_rules import Work, is_whole, metadata_of
from mse_grad_server.rpc.stream.limits import StreamLimits

__all__ = ["OpenRequest", "RequestAdmission", "Wait", "origin_of"]

# Chunks of a request that wait with it. The SDK has three under way; a client that sends more is refused.
_MOST_CHUNKS = 8


@dataclass(slots=True, eq=False)
class OpenRequest:
    """Request of a stream, from its header to its last gradient.

    Attributes:
        id: Id of the request on the stream.
        origin: Name, words and trace of the request.
        work: Work of the request.
        scalar_dout: The one element of dout, or None.
        admitted_bytes: Bytes that the engine admits.
        began_s: Time when the header arrived.
        deadline_s: Time when the caller stops waiting; infinite without a deadline.
        progress_s: Time when a chunk of the request last arrived or was computed.
        is_shared: Whether its operands lie in shared memory.
        wait: Its wait for admission; None once it was admitted.
        received: Elements that have arrived.
        computed: Elements that are computed.
        is_open: False after the request was answered or has failed.
        phase: Phase of its latest chunk that a thread computes.
    """

    id: int
    origin: Origin
    work: Work
    scalar_dout: Array | None
    admitted_bytes: int
    began_s: float
    deadline_s: float
    progress_s: float
    is_shared: bool = False
    wait: Wait | None = None
    received: int = 0
    computed: int = 0
    is_open: bool = True
    phase: Phase = Phase.UPLOAD

    @property
    def waits_for_chunks(self) -> bool:
        """Whether the server has admitted it and lacks chunks of it."""
        return self.wait is None and self.received < self.work.count

    def overdue(self, now_s: float, *, silent_since_s: float, silence: ServerError) -> ServerError | None:
        """Returns why the request has to fail by now, or None.

        Args:
            now_s: Current time.
            silent_since_s: Time since when the client may not have been silent.
            silence: The error if it has.
        """
        wait = self.wait
        progress = f"{self.received} of {self.work.count} elements had arrived"
        if self.deadline_s <= now_s:
            is_uploaded = self.received == self.work.count
            return late(Phase.QUEUED if wait is not None else self.phase if is_uploaded else Phase.UPLOAD, progress)
        if wait is not None:
            return (
                None
                if now_s < wait.end_s
                else ServerBusy("the request waited for others for the longest time that the server allows")
            )
        if self.progress_s <= silent_since_s and self.waits_for_chunks:
            text = f"{silence}; {progress}"
            is_late = isinstance(silence, DeadlineExceeded)
            return DeadlineExceeded(text, phase=Phase.UPLOAD) if is_late else type(silence)(text)
        return None


class Wait(Waiting):
    """A request's place in the queue for admission, and its chunks until then.

    Args:
        share: What its client holds.
        request: The request, which arrives now.
        end_s: Time when the server refuses it.
        on_admitted: Called with the request when it is admitted.

    Attributes:
        share: As given.
        size_bytes: Bytes of its operands.
        due_s: Time by which it should begin.
        end_s: Time when the server refuses it.
        chunks: Offset and range of each chunk; they hold no operands.
    """

    def __init__(
        self, share: Share, request: OpenRequest, end_s: float, on_admitted: Callable[[OpenRequest], None]
    ) -> None:
        self.share = share
        self.size_bytes = request.admitted_bytes
        self.due_s = due_s(request.deadline_s, request.began_s)
        self.end_s = end_s
        self.chunks: list[tuple[int, SharedRange]] = []
        self._request = request
        self._on_admitted = on_admitted

    def add(self, offset: int, shared: SharedRange) -> None:
        """Keeps a chunk; raises ServerBusy if there are too many."""
        if len(self.chunks) >= _MOST_CHUNKS:
            raise ServerBusy(f"the waiting request has {_MOST_CHUNKS} chunks already, the most that it may have")
        self.chunks.append((offset, shared))

    @override
    def begin(self) -> None:
        self._on_admitted(self._request)


class RequestAdmission:
    """Admission of the requests of one stream.

    Args:
        engine: Admits them.
        share: What the client of the stream holds.
        limits: Limits of the stream.
    """

    def __init__(self, engine: Engine, share: Share, limits: StreamLimits) -> None:
        self._engine = engine
        self._share = share
        self._limits = limits

    def admit(
        self,
        request: OpenRequest,
        header: Header,
        chunks: Sequence[Chunk],
        *,
        on_admitted: Callable[[OpenRequest], None],
    ) -> None:
        """Admits a request, or makes it wait if its operands lie in shared memory; raises as Engine.admit.

        Args:
            request: The request, which arrives now.
            header: Its header.
            chunks: Chunks of the message with the header.
            on_admitted: Called with the request when it is admitted after a wait.
        """
        engine, now_s = self._engine, request.began_s
        size_bytes, dtype = request.admitted_bytes, request.work.spec.dtype
        if request.is_shared:
            wait = Wait(self._share, request, now_s + self._limits.admission_wait_s, on_admitted)
            if not engine.admit_shared(wait, dtype, now_s):
                request.wait = wait
            return
        is_announced = engine.is_crowded(self._share, size_bytes) and not is_whole(header, chunks, request.work)
        if is_announced:
            engine.make_room(self._share, size_bytes, now_s)
        engine.admit(self._share, size_bytes, dtype, is_announced=is_announced)

    def release(self, request: OpenRequest) -> None:
        """Releases a request that has ended."""
        if not request.is_shared:
            self._engine.release(self._share, request.admitted_bytes)
        elif request.wait is None:
            self._engine.release_shared(self._share, request.admitted_bytes)
        else:
            self._engine.forget_waiting(request.wait)
            request.wait = None


def origin_of(header: Header, recorder: Recorder, now_s: float, *, name_of: Callable[[int], str]) -> Origin:
    """Returns name, words and trace of the request that `header` opens; `name_of` its id without a valid name."""
    request_id = header.request_id if is_request_id(header.request_id) else name_of(header.id)
    traceparent = header.traceparent
    if not (traceparent or header.metadata):
        return Origin(request_id)
    timeline = recorder.timeline(traceparent, now_s)
    return Origin(request_id, metadata_of(header), trace_id_of(traceparent), timeline)
