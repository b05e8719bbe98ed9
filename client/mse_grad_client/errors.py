"""The errors of the SDK.

    MseGradError
    ├── InvalidArgument     (ValueError)           the request breaks a rule of the operator
    ├── DeadlineExceeded    (TimeoutError)         the time ran out before the gradient arrived
    ├── Unavailable         (ConnectionError)      no server answered, or it is not ready, or it drains
    ├── TlsFailed           (ConnectionError)      a certificate is not trusted or cannot be used
    ├── Unauthenticated     (PermissionError)      no token that the server accepts, or an unusable one
    ├── ResourceExhausted                          a limit of the server is reached
    ├── Unimplemented       (NotImplementedError)  this server's backend cannot compute it
    ├── PermissionDenied    (PermissionError)      the server refuses this caller
    ├── Cancelled                                  the request was cancelled
    ├── ClientClosed        (RuntimeError)         the client was used after `close`
    └── InternalError       (RuntimeError)         the server failed, or broke the contract

Codes come from gRPC, reasons from `mse_grad.reasons`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mse_grad.reasons import ContractError, Reason, code_of
from mse_grad_client.options import MAX_TIMEOUT_S

__all__ = [
    "Cancelled",
    "ClientClosed",
    "DeadlineExceeded",
    "InternalError",
    "InvalidArgument",
    "MseGradError",
    "PermissionDenied",
    "ResourceExhausted",
    "TlsFailed",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "from_contract_error",
    "from_rpc_error",
    "from_status",
]


class EndedRpc(Protocol):
    """An RPC that failed, as gRPC raises it, or as its future does not."""

    def code(self) -> grpc.StatusCode:
        """Returns the status code."""

    def details(self) -> str | None:
        """Returns the text of the status."""

    def trailing_metadata(self) -> Any:
        """Returns the metadata of the status, or None."""


class MseGradError(Exception):
    """Base of all errors of the SDK: a call has failed.

    Attributes:
        message: The problem, the allowed values, the remedy; the server's text if it answered.
        reason: Machine-readable reason, or None if the server gave none that this version knows.
        code: gRPC status code.
        request_id: Name of the request in the server's logs, or "" if it has none.
        retry_delay_s: Seconds that the server asks the client to wait before a retry, or None.
    """

    code = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        code: grpc.StatusCode | None = None,
        request_id: str = "",
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code or type(self).code
        self.request_id = request_id
        self.retry_delay_s = retry_delay_s

    def __str__(self) -> str:
        named = f"{self.reason.value}: " if self.reason else ""
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{named}{self.message}{request}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps every attribute when the error crosses processes."""
        return (_restore, (type(self), self.message, self.__dict__.copy()))


class InvalidArgument(MseGradError, ValueError):
    """The request breaks a rule of the operator."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(MseGradError, TimeoutError):
    """The time ran out before the gradient arrived."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(MseGradError, ConnectionError):
    """No server answered, or it is not ready, or it drains; the same request may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class TlsFailed(MseGradError, ConnectionError):
    """A certificate is not trusted or cannot be used; another attempt cannot help."""

    code = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(MseGradError, PermissionError):
    """The call has no token that the server accepts, or the client's token or token file is unusable."""

    code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhausted(MseGradError):
    """A limit of the server is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unimplemented(MseGradError, NotImplementedError):
    """The server's backend cannot compute this request."""

    code = grpc.StatusCode.UNIMPLEMENTED


class PermissionDenied(MseGradError, PermissionError):
    """The server refuses this caller."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Cancelled(MseGradError):
    """The request was cancelled."""

    code = grpc.StatusCode.CANCELLED


class ClientClosed(MseGradError, RuntimeError):
    """The client was used after `close`."""

    code = grpc.StatusCode.CANCELLED


class InternalError(MseGradError, RuntimeError):
    """The server failed, or broke the contract."""

    code = grpc.StatusCode.INTERNAL


_BY_CODE: dict[grpc.StatusCode, type[MseGradError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        DeadlineExceeded,
        Unavailable,
        ResourceExhausted,
        Unimplemented,
        PermissionDenied,
        Unauthenticated,
        Cancelled,
        InternalError,
    )
}
_REASONS = {reason.value: reason for reason in Reason}
_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "x-request-id"


def from_contract_error(broken: ContractError) -> MseGradError:
    """Returns the error for a rule that the SDK itself found broken."""
    kind = _BY_CODE[broken.reason.code]
    return kind(str(broken), reason=broken.reason)


def from_status(status: status_pb2.Status, *, request_id: str = "") -> MseGradError:
    """Returns the error for a status of the server, with the reason and delay from those details that can be read."""
    code = code_of(status.code)
    reason: Reason | None = None
    retry_delay_s: float | None = None
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        with suppress(DecodeError):  # the code still classifies the error, as it does for a newer server's reason
            if detail.Unpack(info):
                reason = _REASONS.get(info.reason)
                request_id = info.metadata.get("request_id", request_id)
            elif detail.Unpack(retry):
                delay = retry.retry_delay
                # Threads cannot wait for longer times.
                retry_delay_s = min(max(0.0, delay.seconds + delay.nanos / 1e9), MAX_TIMEOUT_S)
    kind = _BY_CODE.get(code, MseGradError)
    return kind(status.message, reason=reason, code=code, request_id=request_id, retry_delay_s=retry_delay_s)


def from_rpc_error(error: EndedRpc, *, address: str) -> MseGradError:
    """Returns the error for an RPC that ended with `error`; names `address` if no server answered."""
    status = _rich_status(error)
    request_id = _metadata(error, _REQUEST_ID_KEY)
    if status is not None:
        return from_status(status, request_id=str(request_id or ""))
    code = error.code()
    details = error.details() or "the server gave no details"
    failed = _tls_failure(details, address)
    if failed and code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAUTHENTICATED):
        return TlsFailed(failed, reason=Reason.TLS_FAILED)
    # This side cancels calls only when it disconnects. A server that ends cancels calls that came too late to drain. A
    # proxy resets streams whose server is gone or whose time is over, which gRPC reports as INTERNAL.
    is_reset = code is grpc.StatusCode.INTERNAL and "RST_STREAM" in details
    if is_reset or code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        if details.startswith("failed to connect") and details.endswith("Socket closed"):
            details += (
                "; a server with TLS closes connections without it (set tls_ca), and a server that asks for client "
                "certificates closes connections without one (set tls_certificate, tls_key)"
            )
        return Unavailable(f"no answer from {address}: {details}", reason=Reason.CONNECTION_LOST)
    reason = Reason.DEADLINE_EXCEEDED if code is grpc.StatusCode.DEADLINE_EXCEEDED else None
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        # A message past gRPC's own limit never reaches the server's code, whose error would name the remedy.
        reason, details = Reason.MESSAGE_TOO_LARGE, f"{details}; compute sends tensors of any size, in chunks"
    return _BY_CODE.get(code, MseGradError)(details, reason=reason, code=code, request_id=str(request_id or ""))


def _tls_failure(details: str, address: str) -> str:
    """Returns the message for a failure of TLS, which gRPC reports only as text; "" if TLS did not fail."""
    other_names = (
        "Hostname Verification Check failed",
        "is not in peer certificate",
        "does not match SSL server name",  # gRPC's text for an IP address that is the certificate's common name
    )
    if any(words in details for words in other_names):
        return (
            f"the certificate of {address} is for other names; use an address with one of them, or name one with "
            "tls_server_name"
        )
    found = re.search(r"(?:CERTIFICATE_VERIFY_FAILED|BAD_SIGNATURE): ([^:]+)", details)
    if found:
        return (
            f"the certificate of {address} is not trusted ({found[1]}); name the CA that signed it with tls_ca, or "
            "have it renewed if it has expired"
        )
    if "NO_COMMON_SIGNATURE_ALGORITHMS" in details or "Failed to create security handshaker" in details:
        return (
            "gRPC's TLS cannot use the files of tls_ca, tls_certificate and tls_key; it accepts RSA keys, except those "
            "restricted to PSS, and EC keys on P-256 or P-384"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return f"{address} does not speak TLS; is it the port of mse-grad-server, with --tls-certificate?"
    return f"TLS with {address} failed: {details}" if "handshake" in details else ""


def _rich_status(error: EndedRpc) -> status_pb2.Status | None:
    raw = _metadata(error, _DETAILS_KEY)
    if not isinstance(raw, bytes):
        return None
    try:
        return status_pb2.Status.FromString(raw)
    except DecodeError:
        return None  # a proxy's own bytes under this key; the plain code and details still apply


def _metadata(error: EndedRpc, key: str) -> str | bytes | None:
    return next((entry.value for entry in error.trailing_metadata() or () if entry.key == key), None)


def _restore(kind: type[MseGradError], message: str, attributes: dict[str, Any]) -> MseGradError:
    error = kind(message)
    error.__dict__.update(attributes)
    return error
