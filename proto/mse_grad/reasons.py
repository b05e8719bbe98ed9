"""Machine-readable reasons of errors, the one table that client and server share.

A reason travels as `google.rpc.ErrorInfo.reason` under the domain `ERROR_DOMAIN`. Its gRPC code and whether sending the
same request again can help stand here and nowhere else.
"""

from __future__ import annotations

from enum import Enum

import grpc

__all__ = ["ERROR_DOMAIN", "ContractError", "Reason", "code_of"]

ERROR_DOMAIN = "mse_grad.v1"


class Reason(Enum):
    """Why a request was not answered with a gradient; the value is what travels."""

    code: grpc.StatusCode
    retryable: bool

    def __new__(cls, text: str, code: grpc.StatusCode, retryable: bool = False) -> Reason:
        """Returns the reason whose value is `text`."""
        reason = object.__new__(cls)
        reason._value_ = text
        reason.code = code
        reason.retryable = retryable
        return reason

    # The operands.
    DTYPE_UNKNOWN = "DTYPE_UNKNOWN", grpc.StatusCode.INVALID_ARGUMENT
    DTYPE_MISMATCH = "DTYPE_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT
    RANK_TOO_HIGH = "RANK_TOO_HIGH", grpc.StatusCode.INVALID_ARGUMENT
    SHAPE_INVALID = "SHAPE_INVALID", grpc.StatusCode.INVALID_ARGUMENT
    SHAPE_MISMATCH = "SHAPE_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT
    DOUT_SHAPE_MISMATCH = "DOUT_SHAPE_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT
    REDUCTION_UNKNOWN = "REDUCTION_UNKNOWN", grpc.StatusCode.INVALID_ARGUMENT
    NUMEL_INVALID = "NUMEL_INVALID", grpc.StatusCode.INVALID_ARGUMENT
    TENSORS_INVALID = "TENSORS_INVALID", grpc.StatusCode.INVALID_ARGUMENT
    BYTE_COUNT_MISMATCH = "BYTE_COUNT_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT
    # The stream.
    MESSAGE_MALFORMED = "MESSAGE_MALFORMED", grpc.StatusCode.INVALID_ARGUMENT
    REQUEST_ID_INVALID = "REQUEST_ID_INVALID", grpc.StatusCode.INVALID_ARGUMENT
    REQUEST_ID_UNKNOWN = "REQUEST_ID_UNKNOWN", grpc.StatusCode.INVALID_ARGUMENT
    CHUNK_OUT_OF_ORDER = "CHUNK_OUT_OF_ORDER", grpc.StatusCode.INVALID_ARGUMENT
    CHUNK_OUT_OF_RANGE = "CHUNK_OUT_OF_RANGE", grpc.StatusCode.INVALID_ARGUMENT
    # Shared memory.
    SHARED_MEMORY_DENIED = "SHARED_MEMORY_DENIED", grpc.StatusCode.PERMISSION_DENIED
    SHARED_MEMORY_UNUSABLE = "SHARED_MEMORY_UNUSABLE", grpc.StatusCode.INVALID_ARGUMENT
    SHARED_MEMORY_FULL = "SHARED_MEMORY_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED
    SEGMENT_UNKNOWN = "SEGMENT_UNKNOWN", grpc.StatusCode.INVALID_ARGUMENT
    SHARED_RANGE_INVALID = "SHARED_RANGE_INVALID", grpc.StatusCode.INVALID_ARGUMENT
    # Who calls, and over what.
    TOKEN_MISSING = "TOKEN_MISSING", grpc.StatusCode.UNAUTHENTICATED
    TOKEN_UNKNOWN = "TOKEN_UNKNOWN", grpc.StatusCode.UNAUTHENTICATED
    TOKEN_REMOVED = "TOKEN_REMOVED", grpc.StatusCode.UNAVAILABLE, True
    TLS_FAILED = "TLS_FAILED", grpc.StatusCode.UNAVAILABLE
    # What this server cannot do, or not now.
    DTYPE_NOT_ON_BACKEND = "DTYPE_NOT_ON_BACKEND", grpc.StatusCode.UNIMPLEMENTED
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE", grpc.StatusCode.RESOURCE_EXHAUSTED
    TOO_MANY_OPEN_REQUESTS = "TOO_MANY_OPEN_REQUESTS", grpc.StatusCode.RESOURCE_EXHAUSTED, True
    SERVER_BUSY = "SERVER_BUSY", grpc.StatusCode.RESOURCE_EXHAUSTED, True
    NOT_READY = "NOT_READY", grpc.StatusCode.UNAVAILABLE, True
    DRAINING = "DRAINING", grpc.StatusCode.UNAVAILABLE, True
    DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, True
    CONNECTION_LOST = "CONNECTION_LOST", grpc.StatusCode.UNAVAILABLE, True
    # The end of a request without an answer.
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED
    CANCELLED = "CANCELLED", grpc.StatusCode.CANCELLED
    INTERNAL = "INTERNAL", grpc.StatusCode.INTERNAL


class ContractError(ValueError):
    """A rule of the contract is broken; client and server each raise their own error from it.

    Attributes:
        reason: Which rule.
        field: The field of the request at fault, e.g. "label".
    """

    def __init__(self, reason: Reason, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


def code_of(number: int) -> grpc.StatusCode:
    """Returns gRPC's code of a number on the wire; UNKNOWN for one that has none."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
