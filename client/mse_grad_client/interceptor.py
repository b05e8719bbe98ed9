"""Interceptors and metrics: a user's own code around the calls of a client, the same for the sync and async client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from mse_grad.metadata import METADATA_PREFIX

__all__ = ["CallInfo", "ClientMetrics", "Interceptor"]


@dataclass(slots=True)
class CallInfo:
    """One call of a client, as interceptors and metrics see it.

    Attributes:
        method: The client's method: "compute", "compute_many", "compute_unary", "submit" or "server_info".
        shape: Shape of predict; None for "compute_many", whose items may differ, and "server_info".
        dtype: Name of the element type, such as "float32"; "" if `shape` is None.
        reduction: "none", "mean" or "sum"; "" for "server_info".
        size_bytes: Bytes of predict; 0 if `shape` is None.
        request_id: Name of the call in the server's logs and in errors. All requests of "compute_many" have it.
        metadata: The caller's own words for the server's logs and traces. An interceptor may change it.
        traceparent: W3C trace context that the server is told; "" for none. An interceptor may set it.
    """

    method: str
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    reduction: str = ""
    size_bytes: int = 0
    request_id: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    traceparent: str = ""

    def rpc_metadata(self) -> Iterator[tuple[str, str]]:
        """Yields the metadata of a unary RPC for this call; a stream carries the same in the header of a request."""
        yield "x-request-id", self.request_id
        if self.traceparent:
            yield "traceparent", self.traceparent
        for key, value in self.metadata.items():
            yield METADATA_PREFIX + key, value


@runtime_checkable
class Interceptor(Protocol):
    """Code around each call of a client. Any thread, and any task of the async client, may call it at any time.

    Example:
        class Timed:
            @contextmanager
            def intercept(self, call: CallInfo) -> Iterator[None]:
                call.metadata["team"] = "vision"
                began_s = time.monotonic()
                try:
                    yield
                finally:
                    print(call.method, call.shape, time.monotonic() - began_s)

        MseGradClient(address, options=ClientOptions(interceptors=(Timed(),)))
    """

    def intercept(self, call: CallInfo) -> AbstractContextManager[object]:
        """Returns a context manager that is entered before the call and left after it, retries included.

        It may change `call.metadata` when it is entered. It refuses the call if it raises then: the caller gets that
        exception, and nothing is sent. When it is left it receives the error of the call, if there is one. Of several
        interceptors the first is entered first and left last. A call whose operands are invalid does not get here.

        In the async client the call is awaited between the two. So neither may block for long.
        """


@runtime_checkable
class ClientMetrics(Protocol):
    """Receives the events of a client for metrics. Any thread may call it; it should return at once and never raise."""

    def call_ended(self, call: CallInfo, seconds: float, error: BaseException | None) -> None:
        """A call ended.

        Args:
            call: The call.
            seconds: Time from its beginning to its end, retries included.
            error: The error that the caller gets, or None.
        """

    def retried(self, request_id: str, error: Exception) -> None:
        """A request is sent again, because its last attempt ended with `error`."""

    def connected(self, address: str) -> None:
        """A stream to `address` was opened."""
