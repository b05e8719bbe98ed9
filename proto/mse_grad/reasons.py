"""Machine-readable reasons of errors: one table for client and server.

A reason travels as `google.rpc.ErrorInfo.reason` under the domain `ERROR_DOMAIN`. Only this table says its gRPC code,
and whether a retry of the same request can succeed.
"""

from __future__ import annotations

from enum import Enum

import grpc

__all__ = ["ERROR_DOMAIN", "ContractError", "Reason", "code_of"]

ERROR_DOMAIN = "mse_grad.v1"


class Reason(Enum):
    """Why a request got no gradient; the value is the text on the wire."""

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
    # The Open Inference Protocol.
    MODEL_UNKNOWN = "MODEL_UNKNOWN", grpc.StatusCode.NOT_FOUND
    INPUTS_INVALID = "INPUTS_INVALID", grpc.StatusCode.INVALID_ARGUMENT
    PARAMETER_INVALID = "PARAMETER_INVALID", grpc.StatusCode.INVALID_ARGUMENT
    NOT_OFFERED = "NOT_OFFERED", grpc.StatusCode.UNIMPLEMENTED
    # The caller's own objects; only clients raise these.
    OPERAND_UNSUPPORTED = "OPERAND_UNSUPPORTED", grpc.StatusCode.INVALID_ARGUMENT
    OUT_NOT_WRITABLE = "OUT_NOT_WRITABLE", grpc.StatusCode.INVALID_ARGUMENT
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
    # Direct connections.
    DIRECT_DENIED = "DIRECT_DENIED", grpc.StatusCode.PERMISSION_DENIED
    DIRECT_FULL = "DIRECT_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED
    # Authentication and TLS.
    TOKEN_MISSING = "TOKEN_MISSING", grpc.StatusCode.UNAUTHENTICATED
    TOKEN_UNKNOWN = "TOKEN_UNKNOWN", grpc.StatusCode.UNAUTHENTICATED
    TOKEN_REMOVED = "TOKEN_REMOVED", grpc.StatusCode.UNAVAILABLE, True
    SCOPE_MISSING = "SCOPE_MISSING", grpc.StatusCode.PERMISSION_DENIED
    TLS_FAILED = "TLS_FAILED", grpc.StatusCode.UNAVAILABLE
    # Limits and states of the server.
    DTYPE_NOT_ON_BACKEND = "DTYPE_NOT_ON_BACKEND", grpc.StatusCode.UNIMPLEMENTED
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE", grpc.StatusCode.RESOURCE_EXHAUSTED
    TOO_MANY_OPEN_REQUESTS = "TOO_MANY_OPEN_REQUESTS", grpc.StatusCode.RESOURCE_EXHAUSTED, True
    SERVER_BUSY = "SERVER_BUSY", grpc.StatusCode.RESOURCE_EXHAUSTED, True
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED", grpc.StatusCode.RESOURCE_EXHAUSTED, True
    NOT_READY = "NOT_READY", grpc.StatusCode.UNAVAILABLE, True
    DRAINING = "DRAINING", grpc.StatusCode.UNAVAILABLE, True
    DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, True
    CONNECTION_LOST = "CONNECTION_LOST", grpc.StatusCode.UNAVAILABLE, True
    # Requests that ended without an answer.
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED
    CANCELLED = "CANCELLED", grpc.StatusCode.CANCELLED
    INTERNAL = "INTERNAL", grpc.StatusCode.INTERNAL


class ContractError(ValueError):
    """A violation of the contract; client and server each raise their own error from it.

    Attributes:
        reason: The violated rule.
        field: The wrong field of the request, e.g. "label".
    """

    def __init__(self, reason: Reason, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


def code_of(number: int) -> grpc.StatusCode:
    """Returns the gRPC code with a number on the wire; UNKNOWN if there is none."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
