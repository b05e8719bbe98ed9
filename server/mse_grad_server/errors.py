"""Errors of requests, and their one mapping to the gRPC status that the caller gets.

ServerError                   one request fails
+-- InvalidArgument           a rule of the contract is broken
+-- DTypeNotOnBackend         UNIMPLEMENTED
+-- NotOffered                UNIMPLEMENTED; a part of the Open Inference Protocol
+-- ModelUnknown              NOT_FOUND
+-- MessageTooLarge           RESOURCE_EXHAUSTED; another method accepts the request
+-- Unauthenticated           the caller has no valid token
|   +-- TokenMissing
|   +-- TokenUnknown
+-- ScopeMissing              PERMISSION_DENIED; the caller's token does not allow the method
+-- Refused                   the same request may succeed later
|   +-- ServerBusy
|   +-- QuotaExceeded
|   +-- TooManyOpenRequests
|   +-- NotReady
|   +-- Draining
|   |   +-- StreamTooOld
|   +-- DeviceUnavailable
|   +-- TokenRemoved
+-- SharedMemoryRefused       a client's memory is not mapped; it may use the stream instead
|   +-- SharedMemoryDenied
|   +-- SharedMemoryUnusable
|   +-- SharedMemoryFull
+-- DeadlineExceeded
+-- Cancelled
+-- BackendError              the backend failed; INTERNAL

`mse_grad.reasons.ContractError`, which the shared rules raise, is mapped like InvalidArgument.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from mse_grad.reasons import ERROR_DOMAIN, ContractError, Reason

__all__ = [
    "BackendError",
    "Cancelled",
    "DTypeNotOnBackend",
    "DeadlineExceeded",
    "DeviceUnavailable",
    "DirectDenied",
    "DirectFull",
    "Draining",
    "InvalidArgument",
    "MessageTooLarge",
    "ModelUnknown",
    "NotOffered",
    "NotReady",
    "QuotaExceeded",
    "Refused",
    "ScopeMissing",
    "ServerBusy",
    "ServerError",
    "SharedMemoryDenied",
    "SharedMemoryFull",
    "SharedMemoryRefused",
    "SharedMemoryUnusable",
    "StreamTooOld",
    "TokenMissing",
    "TokenRemoved",
    "TokenUnknown",
    "TooManyOpenRequests",
    "Unauthenticated",
    "reason_of",
    "to_status",
]


class ServerError(Exception):
    """A request fails.

    Attributes:
        reason: Machine-readable reason, which determines the gRPC code.
        field: The wrong field of the request, or "".
        retry_after_s: Time after which a retry may succeed; None if it cannot.
    """

    reason = Reason.INTERNAL
    retry_after_s: float | None = None

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidArgument(ServerError):
    """The request breaks a rule of the contract."""

    def __init__(self, message: str, *, reason: Reason, field: str) -> None:
        super().__init__(message, field=field)
        self.reason = reason


class DTypeNotOnBackend(ServerError):
    """The backend does not compute this dtype of the contract."""

    reason = Reason.DTYPE_NOT_ON_BACKEND


class NotOffered(ServerError):
    """The server does not offer this part of the Open Inference Protocol."""

    reason = Reason.NOT_OFFERED


class ModelUnknown(ServerError):
    """The server has no such model, or no such version of it."""

    reason = Reason.MODEL_UNKNOWN


class MessageTooLarge(ServerError):
    """The message is larger than its method allows."""

    reason = Reason.MESSAGE_TOO_LARGE


class Unauthenticated(ServerError):
    """The server requires a token, and the call has no valid one."""

    reason = Reason.TOKEN_UNKNOWN


class TokenMissing(Unauthenticated):
    """The call has no token."""

    reason = Reason.TOKEN_MISSING


class TokenUnknown(Unauthenticated):
    """The token of the call is not one of the server's."""


class ScopeMissing(ServerError):
    """The token of the call is valid and does not allow the method."""

    reason = Reason.SCOPE_MISSING


class Refused(ServerError):
    """The server does not accept the request now; nothing was computed."""

    retry_after_s: float | None = 0.1


class ServerBusy(Refused):
    """A limit on concurrent requests, calls or bytes is reached."""

    reason = Reason.SERVER_BUSY


class QuotaExceeded(Refused):
    """The caller's token has as many requests or bytes under way as it may have."""

    reason = Reason.QUOTA_EXCEEDED


class TooManyOpenRequests(Refused):
    """The stream has reached its limit of open requests."""

    reason = Reason.TOO_MANY_OPEN_REQUESTS


class NotReady(Refused):
    """The server is starting: its first gradients are not verified yet."""

    reason = Reason.NOT_READY
    retry_after_s = 0.5


class Draining(Refused):
    """The server finishes the accepted requests and ends; another server, or a later one, can answer."""

    reason = Reason.DRAINING
    retry_after_s: float | None = 1.0


class StreamTooOld(Draining):
    """The stream has reached its greatest age; another one, to the same server or another, can answer."""

    retry_after_s = None


class DeviceUnavailable(Refused):
    """The device failed, and is being repaired or is paused."""

    reason = Reason.DEVICE_UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TokenRemoved(Refused):
    """The token of the stream is no longer valid; a new stream with another token is needed."""

    reason = Reason.TOKEN_REMOVED


class SharedMemoryRefused(ServerError):
    """The server does not map the client's memory; the client may use the stream instead."""

    reason = Reason.SHARED_MEMORY_UNUSABLE


class SharedMemoryDenied(SharedMemoryRefused):
    """The client has no permission to hand over memory, or does not know the secret of an open stream."""

    reason = Reason.SHARED_MEMORY_DENIED


class SharedMemoryUnusable(SharedMemoryRefused):
    """The memory cannot be mapped safely."""


class SharedMemoryFull(SharedMemoryRefused):
    """A limit on mapped memory is reached."""

    reason = Reason.SHARED_MEMORY_FULL


class DirectDenied(ServerError):
    """The direct connection does not show the secret of an open stream; the client may use the stream instead."""

    reason = Reason.DIRECT_DENIED


class DirectFull(ServerError):
    """Too many direct connections have not shown a secret."""

    reason = Reason.DIRECT_FULL


class DeadlineExceeded(ServerError):
    """The caller's deadline passed, or a silent caller used up its time, in a phase of the request or in none ("")."""

    reason = Reason.DEADLINE_EXCEEDED

    def __init__(self, message: str, *, phase: str = "") -> None:
        super().__init__(message)
        self.phase = phase


class Cancelled(ServerError):
    """The caller has cancelled the request."""

    reason = Reason.CANCELLED


class BackendError(ServerError):
    """The backend failed; the message goes to the log, not to the caller."""

    reason = Reason.INTERNAL


def reason_of(error: BaseException) -> Reason:
    """Returns the reason of `error`; INTERNAL unless it is a ServerError, a ContractError or a MemoryError."""
    if isinstance(error, MemoryError):  # the same request may succeed later
        return Reason.SERVER_BUSY
    return error.reason if isinstance(error, ServerError | ContractError) else Reason.INTERNAL


def to_status(error: BaseException, *, request_id: str) -> status_pb2.Status:
    """Returns the gRPC status for `error`, without internals of the server.

    Args:
        error: A ServerError, a ContractError, a MemoryError, or any other error, which becomes INTERNAL.
        request_id: Id of the line in the server's log; in ErrorInfo.metadata, as is the phase of an expired request.
    """
    if isinstance(error, MemoryError):
        error = ServerBusy("the server has no memory left for the request; send it again, or in smaller parts")
    reason = reason_of(error)
    if reason is Reason.INTERNAL:
        message = f"the server failed; its log says more under request_id {request_id}"
    else:
        message = str(error)
    told = (("request_id", request_id), ("phase", getattr(error, "phase", "")))
    metadata = {name: value for name, value in told if value}
    info = error_details_pb2.ErrorInfo(reason=reason.value, domain=ERROR_DOMAIN, metadata=metadata)
    details = [_any(info)]
    if reason.code is grpc.StatusCode.INVALID_ARGUMENT and (field := getattr(error, "field", "")):
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(_any(error_details_pb2.BadRequest(field_violations=[violation])))
    if reason.retryable:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(1000 * (getattr(error, "retry_after_s", None) or 0.0)))
        details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=reason.code.value[0], message=message, details=details)


def _any(message: error_details_pb2.ErrorInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
