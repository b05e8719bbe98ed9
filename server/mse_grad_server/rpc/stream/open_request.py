"""One open request of a stream, and its wait for admission if its operands lie in shared memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from mse_grad.codec import Header, SharedRange
from mse_grad.metadata import is_request_id
from mse_grad.tensor import Array
from mse_grad_server.engine.admission import Waiting
from mse_grad_server.engine.engine import Engine
from mse_grad_server.errors import DeadlineExceeded, ServerBusy, ServerError
from mse_grad_server.metrics.recorder import Origin, Recorder
from mse_grad_server.rpc.admission.call import trace_id_of
from mse_grad_server.rpc.request_rules import Work, metadata_of
from mse_grad_server.rpc.stream.limits import StreamLimits

__all__ = ["OpenRequest", "Wait", "admit_shared", "origin_of", "release_shared"]

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
            return DeadlineExceeded(f"the time that the caller gave ran out; {progress}")
        if wait is not None:
            return None if now_s < wait.end_s else ServerBusy("the request waited for others as long as it may")
        if self.progress_s <= silent_since_s and self.received < self.work.count:
            return type(silence)(f"{silence}; {progress}")
        return None


class Wait(Waiting):
    """A request's place in the queue for admission, and its chunks until then.

    Args:
        size_bytes: Bytes of its operands.
        end_s: Time when the server refuses it.
        on_begin: Called when the request is admitted.

    Attributes:
        size_bytes: Bytes of its operands.
        end_s: Time when the server refuses it.
        chunks: Offset and range of each chunk; they hold no operands.
    """

    def __init__(self, size_bytes: int, end_s: float, on_begin: Callable[[], None]) -> None:
        self.size_bytes = size_bytes
        self.end_s = end_s
        self.chunks: list[tuple[int, SharedRange]] = []
        self._on_begin = on_begin

    def add(self, offset: int, shared: SharedRange) -> None:
        """Keeps a chunk; raises ServerBusy if there are too many."""
        if len(self.chunks) >= _MOST_CHUNKS:
            raise ServerBusy(f"the request waits for others with {_MOST_CHUNKS} chunks already, the most that may")
        self.chunks.append((offset, shared))

    @override
    def begin(self) -> None:
        self._on_begin()


def admit_shared(
    engine: Engine, request: OpenRequest, limits: StreamLimits, *, on_admitted: Callable[[OpenRequest], None]
) -> None:
    """Admits a request in shared memory, or makes it wait; raises as Engine.admit_shared.

    Args:
        engine: Admits it.
        request: The request, which arrives now.
        limits: Limits of its stream.
        on_admitted: Called with the request when it is admitted after a wait.
    """
    now_s = request.began_s
    wait = Wait(request.admitted_bytes, now_s + limits.admission_wait_s, lambda: on_admitted(request))
    if not engine.admit_shared(wait, request.work.spec.dtype, now_s):
        request.wait = wait


def release_shared(engine: Engine, request: OpenRequest) -> None:
    """Releases a request in shared memory that has ended."""
    if request.wait is None:
        engine.release_shared(request.admitted_bytes)
    else:
        engine.forget_waiting(request.wait)
        request.wait = None


def origin_of(header: Header, recorder: Recorder, now_s: float, *, name_of: Callable[[int], str]) -> Origin:
    """Returns name, words and trace of the request that `header` opens; `name_of` its id without a valid name."""
    request_id = header.request_id if is_request_id(header.request_id) else name_of(header.id)
    traceparent = header.traceparent
    if not (traceparent or header.metadata):
        return Origin(request_id)
    timeline = recorder.timeline(traceparent, now_s)
    return Origin(request_id, metadata_of(header), trace_id_of(traceparent), timeline)
