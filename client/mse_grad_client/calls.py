"""Calls of one client: their names and metadata, and the user's own code around them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from mse_grad.metadata import MAX_METADATA_ENTRIES, METADATA_TEXT, REQUEST_ID_TEXT, is_metadata_entry, is_request_id
from mse_grad_client.errors import InvalidArgument
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.options import ClientOptions, shown
from mse_grad_client.request import GradientRequest

__all__ = ["Calls"]

_OPENTELEMETRY = "opentelemetry.trace"
_PLAIN = nullcontext()


class Calls:
    """Opens the calls of one client. Thread-safe.

    Args:
        options: Options of the client.
        next_request_id: Makes a request id.
    """

    def __init__(self, options: ClientOptions, next_request_id: Callable[[], str]) -> None:
        self._interceptors = options.interceptors
        self._metrics = options.metrics
        self._next_request_id = next_request_id
        self._has_watchers = bool(self._interceptors) or self._metrics is not None

    def is_plain(self, request_id: str, metadata: Mapping[str, str] | None) -> bool:
        """Whether a call needs no `around`: it has no interceptor, metrics or tracing, and no own id or metadata."""
        return not (self._has_watchers or request_id or metadata or _OPENTELEMETRY in sys.modules)

    def around_many(
        self, reduction: str, request_id: str, metadata: Mapping[str, str] | None
    ) -> AbstractContextManager[CallInfo | None]:
        """Runs the body as one call of `compute_many`, as `around` does; yields None if the call `is_plain`."""
        if self.is_plain(request_id, metadata):
            return _PLAIN
        return self.around("compute_many", reduction=reduction, request_id=request_id, metadata=metadata)

    def around_one(
        self, method: str, request: GradientRequest, request_id: str, metadata: Mapping[str, str] | None
    ) -> AbstractContextManager[CallInfo | None]:
        """Runs the body as one call that computes `request`, as `around` does; yields None if the call `is_plain`."""
        if self.is_plain(request_id, metadata):
            return _PLAIN
        return self.around(method, request, request_id=request_id, metadata=metadata)

    @contextmanager
    def around(
        self,
        method: str,
        request: GradientRequest | None = None,
        *,
        reduction: str = "",
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[CallInfo]:
        """Runs the body as one call, inside of all interceptors; yields its id, metadata and trace for the server.

        Args:
            method: Name of the client's method.
            request: The checked request, which is sent with this call's id, metadata and trace; None if there are many.
            reduction: The reduction, as given.
            request_id: The caller's name for the call; "" for one of the client's.
            metadata: The caller's metadata of the call.

        Raises:
            InvalidArgument: The request id or the metadata is out of bounds.
        """
        if request_id and not is_request_id(request_id):
            raise InvalidArgument(f"request_id is {shown(request_id)}; it must be {REQUEST_ID_TEXT}, or ''")
        call = CallInfo(
            method=method,
            reduction=reduction,
            request_id=request_id or self._next_request_id(),
            metadata=dict(metadata or {}),
        )
        if request is not None:
            call.shape, call.dtype = request.shape, request.dtype.name
            call.reduction, call.size_bytes = request.reduction.text, len(request.predict)
        began_s = time.monotonic()
        ended_with: BaseException | None = None
        try:
            with ExitStack() as interceptors:
                for interceptor in self._interceptors:
                    interceptors.enter_context(interceptor.intercept(call))
                _check_metadata(call.metadata)
                call.traceparent = call.traceparent or _current_traceparent()
                if request is not None:
                    request.call = call
                yield call
        except BaseException as error:
            ended_with = error
            raise
        finally:
            if self._metrics is not None:
                self._metrics.call_ended(call, time.monotonic() - began_s, ended_with)
            del ended_with  # its traceback refers to this frame


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        if not is_metadata_entry(key, value):
            raise InvalidArgument(f"metadata has {shown(key)}: {shown(value)}; it must have {METADATA_TEXT}")
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise InvalidArgument(f"metadata has {len(metadata)} entries; it must have {METADATA_TEXT}")


def _current_traceparent() -> str:
    """Returns the W3C trace context of this thread or task; "" without one. Never imports OpenTelemetry itself."""
    get_current_span = getattr(sys.modules.get(_OPENTELEMETRY), "get_current_span", None)
    if get_current_span is None:
        return ""
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
