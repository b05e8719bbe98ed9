"""Records and errors of a fake server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from mse_grad.codec import Header, UnaryRequest
from mse_grad.metadata import METADATA_PREFIX
from mse_grad.methods import COMPUTE_GRADIENT, STREAM_GRADIENTS
from mse_grad.reasons import ERROR_DOMAIN, Reason
from mse_grad.tensor import Reduction, dtype_of_wire
from mse_grad_client.stream.call import EndedCall, Metadata
from mse_grad_client.testing.channel import Trailer

__all__ = ["RecordedRequest", "Refusal", "record_of_header", "record_of_unary"]


@dataclass(eq=False)
class RecordedRequest:
    """A request that reached the fake server: one attempt of a call.

    Attributes:
        method: "StreamGradients" or "ComputeGradient".
        request_id: Name of the call.
        metadata: The caller's own words.
        traceparent: Trace context of the caller; "" for none.
        shape: Shape of predict.
        tensors: How many tensors of that shape it has; `compute_many` packs small ones together.
        dtype: Name of the element type.
        reduction: "none", "mean" or "sum".
        state: "open", "answered", "failed" or "cancelled".
    """

    method: str
    request_id: str
    metadata: Mapping[str, str]
    traceparent: str
    shape: tuple[int, ...]
    tensors: int
    dtype: str
    reduction: str
    state: Literal["open", "answered", "failed", "cancelled"] = "open"


@dataclass(frozen=True)
class Refusal:
    """An error of one request.

    Attributes:
        reason: Why.
        message: Text for the caller.
        retry_delay_s: Seconds that the client is asked to wait before it tries again; None for none.
    """

    reason: Reason
    message: str
    retry_delay_s: float | None = None

    def status(self, request_id: str) -> status_pb2.Status:
        """Returns the status as a real server sends it."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason.value,
            domain=ERROR_DOMAIN,
            metadata={"request_id": request_id} if request_id else {},
        )
        status = status_pb2.Status(code=self.reason.code.value[0], message=self.message)
        status.details.add().Pack(info)
        if self.retry_delay_s is not None:
            delay = Duration(seconds=int(self.retry_delay_s), nanos=int(self.retry_delay_s % 1 * 1e9))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status

    def ended(self, request_id: str) -> EndedCall:
        """Returns the end of an RPC with this error."""
        details = Trailer("grpc-status-details-bin", self.status(request_id).SerializeToString())
        return EndedCall(self.reason.code, self.message, (details, Trailer("x-request-id", request_id)))


def record_of_header(header: Header) -> RecordedRequest:
    """Returns the record of a request that `header` opens."""
    return RecordedRequest(
        method=STREAM_GRADIENTS,
        request_id=header.request_id,
        metadata={entry.key: entry.value for entry in header.metadata},
        traceparent=header.traceparent,
        shape=header.shape,
        tensors=header.tensors or 1,
        dtype=dtype_of_wire(header.dtype, field="dtype").name,
        reduction=Reduction.of_wire(header.reduction).text,
    )


def record_of_unary(request: UnaryRequest, metadata: Metadata) -> RecordedRequest:
    """Returns the record of a unary request."""
    words = dict(metadata)
    return RecordedRequest(
        method=COMPUTE_GRADIENT,
        request_id=words.get("x-request-id", ""),
        metadata={
            key.removeprefix(METADATA_PREFIX): value for key, value in metadata if key.startswith(METADATA_PREFIX)
        },
        traceparent=words.get("traceparent", ""),
        shape=request.predict.shape,
        tensors=1,
        dtype=dtype_of_wire(request.predict.dtype, field="predict").name,
        reduction=Reduction.of_wire(request.reduction).text,
    )
