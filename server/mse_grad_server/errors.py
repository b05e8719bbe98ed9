"""What the server raises, and the one mapping of it to what the caller gets.

ServerError                   one request fails
+-- InvalidArgument           a rule of the contract is broken
+-- DTypeNotOnBackend         UNIMPLEMENTED
+-- MessageTooLarge           RESOURCE_EXHAUSTED, another way is open
+-- Unauthenticated           who calls is not known
|   +-- TokenMissing
|   +-- TokenUnknown
+-- Refused                   the same request may succeed later
|   +-- ServerBusy
|   +-- TooManyOpenRequests
|   +-- NotReady
|   +-- Draining
|   +-- DeviceUnavailable
|   +-- TokenRemoved
+-- SharedMemoryRefused       a client's memory is not mapped; its gradients may come over the stream
|   +-- SharedMemoryDenied
|   +-- SharedMemoryUnusable
|   +-- SharedMemoryFull
+-- DeadlineExceeded
+-- Cancelled
+-- BackendError              what computes failed; INTERNAL

`mse_grad.reasons.ContractError`, which the shared rules raise, counts as InvalidArgument.
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
    "Draining",
    "InvalidArgument",
    "MessageTooLarge",
    "NotReady",
    "Refused",
    "ServerBusy",
    "ServerError",
    "SharedMemoryDenied",
    "SharedMemoryFull",
    "SharedMemoryRefused",
    "SharedMemoryUnusable",
    "TokenMissing",
    "TokenRemoved",
    "TokenUnknown",
    "TooManyOpenRequests",
    "Unauthenticated",
    "reason_of",
    "to_status",
]


class ServerError(Exception):
    """A request ends without its gradient.

    Attributes:
        reason: Why, for programs; it carries the gRPC code.
        field: The field of the request at fault, or "".
        retry_after_s: When the same request is worth sending again; None where never.
    """

    reason = Reason.INTERNAL
    retry_after_s: float | None = None

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidArgument(ServerError):
    """A rule of the contract is broken."""

    def __init__(self, message: str, *, reason: Reason, field: str) -> None:
        super().__init__(message, field=field)
        self.reason = reason


class DTypeNotOnBackend(ServerError):
    """The contract knows the dtype, the backend does not compute it."""

    reason = Reason.DTYPE_NOT_ON_BACKEND


class MessageTooLarge(ServerError):
    """The message is longer than its method allows."""

    reason = Reason.MESSAGE_TOO_LARGE


class Unauthenticated(ServerError):
    """Who calls is not known, and the server serves only those whom it knows."""

    reason = Reason.TOKEN_UNKNOWN


class TokenMissing(Unauthenticated):
    """The call has no token."""

    reason = Reason.TOKEN_MISSING


class TokenUnknown(Unauthenticated):
    """The call's token is none of the server's."""


class Refused(ServerError):
    """Not taken now; nothing was computed."""

    retry_after_s: float | None = 0.1


class ServerBusy(Refused):
    """A bound on what is admitted at a time is reached."""

    reason = Reason.SERVER_BUSY


class TooManyOpenRequests(Refused):
    """One stream has as many open requests as it may."""

    reason = Reason.TOO_MANY_OPEN_REQUESTS


class NotReady(Refused):
    """The first gradients are not verified yet."""

    reason = Reason.NOT_READY
    retry_after_s = 0.5


class Draining(Refused):
    """The server finishes what it accepted and ends; another one, or a later one, will answer."""

    reason = Reason.DRAINING
    retry_after_s = 1.0


class DeviceUnavailable(Refused):
    """What computes failed and is being repaired, or rests."""

    reason = Reason.DEVICE_UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TokenRemoved(Refused):
    """The token with which a stream was opened holds no more; another stream needs another one."""

    reason = Reason.TOKEN_REMOVED


class SharedMemoryRefused(ServerError):
    """A client's memory is not mapped; its gradients may come over the stream."""

    reason = Reason.SHARED_MEMORY_UNUSABLE


class SharedMemoryDenied(SharedMemoryRefused):
    """Who hands it over may not, or does not show the secret of an open stream."""

    reason = Reason.SHARED_MEMORY_DENIED


class SharedMemoryUnusable(SharedMemoryRefused):
    """It is not memory that can be mapped safely."""


class SharedMemoryFull(SharedMemoryRefused):
    """A bound on what is mapped is reached."""

    reason = Reason.SHARED_MEMORY_FULL


class DeadlineExceeded(ServerError):
    """The caller's time, or the time a silent caller is given, ran out."""

    reason = Reason.DEADLINE_EXCEEDED


class Cancelled(ServerError):
    """The caller wants no answer any more."""

    reason = Reason.CANCELLED


class BackendError(ServerError):
    """What computes failed; the message is for the log, not for the caller."""

    reason = Reason.INTERNAL


def reason_of(error: BaseException) -> Reason:
    """Returns the reason of `error`; INTERNAL for what is neither a ServerError nor a ContractError."""
    return error.reason if isinstance(error, ServerError | ContractError) else Reason.INTERNAL


def to_status(error: BaseException, *, request_id: str) -> status_pb2.Status:
    """Returns what the caller gets for `error`, without anything from inside the server.

    Args:
        error: A ServerError, a ContractError, or anything else, which becomes INTERNAL.
        request_id: Travels as ErrorInfo.metadata["request_id"] and finds the line in the server's log.
    """
    reason = reason_of(error)
    if reason is Reason.INTERNAL:
        message = f"the server failed; its log says more under request_id {request_id}"
    else:
        message = str(error)
    info = error_details_pb2.ErrorInfo(
        reason=reason.value, domain=ERROR_DOMAIN, metadata={"request_id": request_id} if request_id else {}
    )
    details = [_any(info)]
    field = getattr(error, "field", "")
    if field and reason.code is grpc.StatusCode.INVALID_ARGUMENT:
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
