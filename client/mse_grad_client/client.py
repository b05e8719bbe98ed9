"""The client: gradients of the mean squared error from a running server."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Array
from mse_grad_client import fork
from mse_grad_client.errors import (
    ClientClosed,
    DeadlineExceeded,
    InvalidArgument,
    MseGradError,
    Unavailable,
    from_contract_error,
)
from mse_grad_client.info import ServerInfo
from mse_grad_client.many import compute_packed
from mse_grad_client.memory import free_a_large_block
from mse_grad_client.options import MAX_TIMEOUT_S, ClientOptions
from mse_grad_client.request import GradientRequest
from mse_grad_client.retry import with_retries
from mse_grad_client.torch import are_tensors, compute_tensors
from mse_grad_client.transport import Transport

__all__ = ["MseGradClient"]

_READY_POLL_S = 0.02


class MseGradClient:
    """Computes gradients on a server, on all of its workers. Any number of threads may share one client.

    Nothing is connected before the first call. Where the server restarts, calls connect again by themselves, and
    requests that got no answer are sent again. After `os.fork` parent and child both go on using it.

    Example:
        with MseGradClient("127.0.0.1:50051") as client:
            gradient = client.compute(predict, label, dout, "mean")

    Args:
        address: "host:port", "[ipv6]:port" or "unix:/path".
        options: See `ClientOptions`.

    Raises:
        ValueError: `address` has none of these forms, or a token would go to another machine in the clear.
        TlsFailed: A file of certificates in `options` cannot be used.
        Unauthenticated: The file of the token cannot be used.
    """

    def __init__(self, address: str, *, options: ClientOptions | None = None) -> None:
        free_a_large_block()
        self._options = options or ClientOptions()
        self._transport = Transport(address, self._options)
        fork.watch(self._transport)
        self._close = weakref.finalize(self, self._transport.close)

    @property
    def address(self) -> str:
        """The address as it was given."""
        return self._transport.address

    @property
    def options(self) -> ClientOptions:
        """The options as they were given."""
        return self._options

    def compute(
        self,
        predict: ArrayLike,
        label: ArrayLike,
        dout: ArrayLike,
        reduction: str = "mean",
        *,
        out: Array | None = None,
        numel: int = 0,
        timeout_s: float | None = None,
    ) -> Array:
        """Returns `2 * (predict - label) * dout`, divided by N for "mean".

        Tensors of any size go: they are cut into chunks, and memory beside the arrays stays a few chunks.

        Tensors of PyTorch go as well, and then a tensor comes back, detached and on the device of predict: those of the
        CPU are used where they lie, those of an NPU (torch_npu) are copied through pinned memory of the host.

        Args:
            predict: Prediction; float32, float16, bfloat16 (ml_dtypes) or float64, rank 0 to 8, any strides.
            label: Target; dtype and shape of predict.
            dout: Upstream gradient: dtype and shape of predict, or one element of rank 0 or 1, or a Python number.
            reduction: "none", "mean" or "sum": how the loss was reduced.
            out: Where the gradient goes; dtype and shape of predict, writable, may be one of the operands. Its content
                is undefined after an error.
            numel: N for "mean" where predict is only a part of a larger tensor; 0: predict is the whole.
            timeout_s: Time for this call in seconds, retries included; None: that of the options.

        Returns:
            `out`, or a new array, with predict's shape and dtype.

        Raises:
            InvalidArgument: A rule of the operator is broken (a ValueError); sending it again cannot help.
            DeadlineExceeded: The time ran out (a TimeoutError).
            Unavailable: No server answered (a ConnectionError).
            TlsFailed: The server's certificate is not trusted (a ConnectionError).
            Unauthenticated: The server does not know the token (a PermissionError).
            Unimplemented: The server's backend cannot compute this dtype (a NotImplementedError).
            ResourceExhausted: A limit of the server is reached and stayed so over all retries.
            InternalError: The server failed.
            ClientClosed: The client was closed.
        """
        return self._compute(self._transport.run, predict, label, dout, reduction, out, numel, timeout_s)

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> Array:
        """Returns an array of unset elements that a server on this host computes on without a copy.

        It is an array like any other, and is one in every respect where the server is elsewhere or shares no memory.
        `compute` copies nothing where predict, label, a full dout and out all come from here; views of such arrays do
        as well. The memory is given back when the array and all views of it are gone; it outlives the client. Other
        clients never see it. After `os.fork` parent and child see each other's writes to it.

        Args:
            shape: As for `numpy.empty`.
            dtype: Likewise.
        """
        region = self._transport.region
        return np.empty(shape, dtype) if region is None else region.empty(shape, dtype)

    def compute_unary(
        self,
        predict: ArrayLike,
        label: ArrayLike,
        dout: ArrayLike,
        reduction: str = "mean",
        *,
        out: Array | None = None,
        numel: int = 0,
        timeout_s: float | None = None,
    ) -> Array:
        """As `compute`, with one unary RPC that holds all operands: what clients in other languages call.

        Bounded by the server's `max_unary_bytes`; the error past it names the limit. `compute` is faster and unbounded.
        """
        return self._compute(self._transport.run_unary, predict, label, dout, reduction, out, numel, timeout_s)

    @overload
    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Array]: ...

    @overload
    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        return_errors: Literal[True],
    ) -> list[Array | MseGradError]: ...

    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        return_errors: bool = False,
    ) -> list[Array] | list[Array | MseGradError]:
        """Returns the gradients of many items, in their order: for small ones much faster than one `compute` each.

        Items of one shape and dtype travel together. Each gradient is the one `compute` returns, bit for bit.

        Args:
            items: predict, label and dout of each, arrays as for `compute`; shapes and dtypes may differ between items.
            reduction: How the loss of every item was reduced; N of "mean" is the element count of its own item.
            timeout_s: Time for the whole call in seconds; None: that of the options.
            return_errors: Whether an item that fails leaves its error in its place in the list; else the first error is
                raised once every item has ended.

        Returns:
            One array for each item. Small ones are views into an array that they share; copy one that is to be kept
            alone.

        Raises:
            MseGradError: As `compute`, unless `return_errors`.
            ValueError: An item is not three operands.
        """
        deadline = self._deadline(timeout_s)
        results = compute_packed(
            items,
            reduction,
            start=lambda request: self._transport.start(request, deadline=deadline),
            run=lambda request: self._run(self._transport.run, request, deadline),
            empty=self._transport.empty,
        )
        if not return_errors:
            for result in results:
                if isinstance(result, MseGradError):
                    raise result
        return results

    def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """Returns what the server says about itself; raises as `compute`."""
        deadline = self._deadline(timeout_s)
        answer = with_retries(
            lambda: self._transport.server_info(deadline=deadline),
            options=self._options.retry,
            deadline=deadline,
            closed=self._transport.closed,
        )
        return self._reached(ServerInfo.of_wire(answer), deadline)

    def wait_ready(self, timeout_s: float) -> ServerInfo:
        """Blocks until the server answers and a worker of it takes requests; returns what it says about itself.

        Raises:
            DeadlineExceeded: It did not within `timeout_s` seconds.
            ClientClosed: The client was closed meanwhile.
        """
        deadline = self._deadline(timeout_s)
        found = "nobody answered"
        while not self._transport.closed.wait(_READY_POLL_S):
            try:
                info = ServerInfo.of_wire(self._transport.server_info(deadline=deadline))
                if info.ready:
                    return self._reached(info, deadline)
                found = ", ".join(f"{endpoint.address} is {endpoint.state}" for endpoint in info.endpoints)
            except Unavailable as error:
                found = error.message
            except DeadlineExceeded:
                pass  # what was found before says more
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded(
                    f"{self.address} was not ready within {timeout_s} s: {found}", reason=Reason.DEADLINE_EXCEEDED
                )
        raise ClientClosed("the client was closed")

    def close(self) -> None:
        """Closes the connection; calls under way fail with ClientClosed. A second call does nothing."""
        self._close()

    def __enter__(self) -> MseGradClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MseGradClient({self.address!r})"

    def _compute(
        self,
        run: Callable[..., None],
        predict: ArrayLike,
        label: ArrayLike,
        dout: ArrayLike,
        reduction: str,
        out: Array | None,
        numel: int,
        timeout_s: float | None,
    ) -> Array:
        if "torch" in sys.modules and are_tensors(predict, label, out):

            def of_arrays(predict: Array, label: Array, dout: ArrayLike, *, out: Array) -> None:
                self._compute(run, predict, label, dout, reduction, out, numel, timeout_s)

            gradient: Array = compute_tensors(of_arrays, predict, label, dout, out)  # a tensor, which types cannot say
            return gradient
        deadline = self._deadline(timeout_s)
        try:
            request = GradientRequest.prepare(predict, label, dout, reduction, out=out, numel=numel)
        except ContractError as broken:
            raise from_contract_error(broken) from None
        self._run(run, request, deadline)
        return request.gradient()

    def _run(self, run: Callable[..., None], request: GradientRequest, deadline: float | None) -> None:
        with_retries(
            lambda: run(request, deadline=deadline),
            options=self._options.retry,
            deadline=deadline,
            closed=self._transport.closed,
        )

    def _reached(self, info: ServerInfo, deadline: float | None) -> ServerInfo:
        """Returns `info` with the way that gradients take from here."""
        shares_memory = self._transport.shares_memory(deadline=deadline)
        return replace(info, transport="shared_memory" if shares_memory else "stream")

    def _deadline(self, timeout_s: float | None) -> float | None:
        if timeout_s is None:
            timeout_s = self._options.timeout_s
        if timeout_s is None:
            return None
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise InvalidArgument(
                f"timeout_s is {timeout_s}; it must be positive and at most 1e9, or None for no limit"
            )
        return time.monotonic() + timeout_s
