"""Client of a gradient server."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from numpy.typing import ArrayLike

from mse_grad.reasons import Reason
from mse_grad.tensor import Array
from mse_grad_client.base import ClientBase, close_both
from mse_grad_client.batching import PackedGradients, all_results
from mse_grad_client.errors import InvalidArgument, MseGradError
from mse_grad_client.kinds import are_tensors
from mse_grad_client.options import ClientOptions
from mse_grad_client.readiness import server_info, wait_ready
from mse_grad_client.request import GradientRequest
from mse_grad_client.routing.waiter import BLOCKING, run
from mse_grad_client.splitting import compute_in_threads

if TYPE_CHECKING:
    from mse_grad_client.server_info import ServerInfo

__all__ = ["MseGradClient"]


class MseGradClient(ClientBase):
    """Computes gradients of the mean squared error on a server and all of its workers.

    Thread-safe. A client connects with the first call. If the server restarts, calls connect again and send unanswered
    requests again. After `os.fork` parent and child may both go on using it.

    A pickle or copy of a client is another open client with the same address and options, including the token. Keep
    such a pickle as secret as the token, or use `token_file`: then the pickle holds only the path.

    A signal handler may raise in the middle of a call (Ctrl-C, a timer). The call ends with that exception and no
    longer writes to `out`; the next call connects again, and calls of other threads are sent again. A handler that
    interrupted a call must not call the same client: that raises RuntimeError, because the interrupted call holds what
    the new one would wait for. Another client works there, and so does `close`.

    Example:
        with MseGradClient("127.0.0.1:50051") as client:
            gradient = client.compute(predict, label, dout, "mean")

    Args:
        address: "host:port", "[ipv6]:port" or "unix:/path" of one server; for many, "dns:///host:port",
            "ipv4:ip:port,ip:port", "ipv6:[ip]:port,[ip]:port" or a list of these (docs/sdk.md).
        options: Options of the client.

    Raises:
        ValueError: `address` has none of these forms, `options` is no ClientOptions, or a token would go to another
            machine without TLS.
        TlsFailed: A certificate file in `options` cannot be used.
        Unauthenticated: The token file cannot be used.
    """

    def __init__(self, address: str | Sequence[str], *, options: ClientOptions | None = None) -> None:
        super().__init__(address, options=options)
        self._close = weakref.finalize(self, close_both, self._transport, self._submissions)

    def compute(
        self,
        predict: ArrayLike,
        label: ArrayLike,
        dout: ArrayLike,
        reduction: str = "mean",
        *,
        out: Array | None = None,
        numel: int = 0,
        split: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Array:
        """Returns `2 * (predict - label) * dout`, divided by N for "mean".

        Tensors of any size are accepted: they travel in chunks, and the client needs memory for a few chunks only.

        Arrays of other libraries are accepted too, and the gradient is of predict's kind (docs/sdk.md). For PyTorch it
        is a detached tensor on predict's device: NPU tensors (torch_npu) go through pinned host memory.

        Args:
            predict: Prediction; float32, float16, bfloat16 (ml_dtypes) or float64, rank 0 to 8, any strides.
                docs/values.md says which other values are accepted.
            label: Target; dtype and shape of predict.
            dout: Upstream gradient: dtype and shape of predict, or one element of rank 0 or 1, or a Python number.
            reduction: "none", "mean" or "sum": the reduction of the loss.
            out: Array for the gradient; dtype and shape of predict, writable, may be one of the operands. Its content
                is undefined after an error.
            numel: N for "mean" if predict is a part of a larger tensor; 0 if predict is the whole tensor.
            split: Whether to send parts of a large tensor to all workers at the same time; the bits are the same.
            timeout_s: Time for this call in seconds, retries included; None for `options.timeout_s`.
            request_id: Your name for the call, in the server's logs and in errors; "" for one that the client makes.
            metadata: Your own words about the call, for the server's logs and traces alone: at most 16 short texts.

        Returns:
            `out`, or a new array of predict's kind, with its shape and dtype.

        Raises:
            InvalidArgument: The request breaks a rule of the operator (a ValueError); a retry cannot help.
            DeadlineExceeded: The time ran out (a TimeoutError).
            Unavailable: No server answered (a ConnectionError).
            TlsFailed: The server's certificate is not trusted (a ConnectionError).
            Unauthenticated: The server does not accept the token, or its file is unusable (a PermissionError).
            Unimplemented: The server's backend cannot compute this dtype (a NotImplementedError).
            ResourceExhausted: A limit of the server was reached in every attempt.
            InternalError: The server failed.
            ClientClosed: The client was closed.
        """
        operands = (predict, label, dout)
        return self._compute("compute", reduction, numel, timeout_s, request_id, metadata, split, operands, out=out)

    def submit(
        self,
        predict: ArrayLike,
        label: ArrayLike,
        dout: ArrayLike,
        reduction: str = "mean",
        *,
        out: Array | None = None,
        numel: int = 0,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Future[Array]:
        """Sends a gradient to be computed and returns its future at once; takes arrays, and arguments as `compute`.

        The arrays must not change until the future is done. Cancelling the future also cancels the call on the server.
        At most 64 calls of a client are under way; then `submit` waits until one ends. A future that a process holds
        when it forks is done in the parent alone.

        Raises:
            InvalidArgument: The request breaks a rule of the operator. All later errors are those of the future.
            DeadlineExceeded: 64 calls were under way until the time was over.
            ClientClosed: The client was closed.
        """
        if "torch" in sys.modules and are_tensors(predict, label, out):
            raise InvalidArgument("submit takes arrays; compute takes tensors too", reason=Reason.OPERAND_UNSUPPORTED)
        deadline = self._transport.deadline(timeout_s)
        request = GradientRequest.prepare(predict, label, dout, reduction, out=out, numel=numel)
        return self._submissions.submit(request, out=out, deadline=deadline, request_id=request_id, metadata=metadata)

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
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Array:
        """Computes like `compute`, but with the unary RPC that clients in other languages call.

        The server's `max_unary_bytes` bounds the request; a larger one fails with an error that names the limit.
        `compute` is faster and has no such bound.
        """
        operands = (predict, label, dout)
        return self._compute(
            "compute_unary", reduction, numel, timeout_s, request_id, metadata, False, operands, out=out
        )

    @overload
    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Array]: ...

    @overload
    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        return_errors: Literal[True],
    ) -> list[Array | MseGradError]: ...

    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        return_errors: bool = False,
    ) -> list[Array] | list[Array | MseGradError]:
        """Returns the gradients of many items, in their order; for small items much faster than one `compute` each.

        Items of the same shape and dtype travel together. Each gradient has exactly the bits that `compute` returns.

        Args:
            items: predict, label and dout of each item, arrays as for `compute`; shapes and dtypes may differ between
                items. A list or tuple must not change during the call. Items of any other iterable, such as a
                generator, are copied as they arrive: it may reuse its arrays for the next item.
            reduction: The reduction of each item's loss; N of "mean" is the element count of the item.
            timeout_s: Time for the whole call in seconds; None for `options.timeout_s`.
            request_id: As for `compute`; all requests that the call sends have it.
            metadata: As for `compute`.
            return_errors: Whether a failed item leaves its error in its place in the list. Otherwise the first error is
                raised once every item has ended.

        Returns:
            One array for each item. Small ones are views into a shared array; copy one if only that one is kept.

        Raises:
            MseGradError: As `compute`, unless `return_errors`; names the item that failed.
        """
        transport = self._transport
        deadline = transport.deadline(timeout_s)
        with self._calls.around_many(reduction, request_id, metadata) as call:
            gradients = PackedGradients(
                items,
                reduction,
                call=call,
                start=lambda request: transport.start(request, deadline=deadline),
                finish=lambda request, pending: transport.run(request, deadline=deadline, pending=pending),
                cancel=transport.cancel,
                empty=transport.empty,
            )
            found = all_results(gradients)
        for gradient in found:
            if isinstance(gradient, MseGradError) and not return_errors:
                raise gradient
        return found

    def server_info(self, *, timeout_s: float | None = None, request_id: str = "") -> ServerInfo:
        """Returns the server's description of itself; raises MseGradError as `compute` does."""
        deadline = self._transport.deadline(timeout_s)
        with self._calls.around("server_info", request_id=request_id) as call:
            return run(lambda: server_info(self._transport, deadline, call.request_id, BLOCKING))

    def wait_ready(self, timeout_s: float) -> ServerInfo:
        """Blocks until a worker of the server accepts requests; returns the server's description of itself.

        Raises:
            DeadlineExceeded: No worker did within `timeout_s` seconds.
            ClientClosed: The client was closed meanwhile.
        """
        return run(lambda: wait_ready(self._transport, timeout_s, BLOCKING))

    def close(self) -> None:
        """Closes all connections; calls under way fail with ClientClosed. A second call does nothing."""
        self._close()

    def __enter__(self) -> MseGradClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _compute(
        self,
        method: str,
        reduction: str,
        numel: int,
        timeout_s: float | None,
        request_id: str,
        metadata: Mapping[str, str] | None,
        split: bool,
        operands: tuple[ArrayLike, ArrayLike, ArrayLike],
        *,
        out: Array | None,
    ) -> Array:
        # A tensor as `dout` of arrays is an array-like as any other.
        if "torch" in sys.modules and are_tensors(*operands[:2], out):
            from mse_grad_client import pytorch

            of_arrays = partial(self._compute, method, reduction, numel, timeout_s, request_id, metadata, split)
            return pytorch.compute_tensors(of_arrays, *operands, out)  # type: ignore[no-any-return]
        deadline = self._transport.deadline(timeout_s)
        request = GradientRequest.prepare(*operands, reduction, out=out, numel=numel)
        transmit = self._transport.run_unary if method == "compute_unary" else self._transport.run
        with self._calls.around_one(method, request, request_id, metadata):
            if split:
                compute_in_threads(request, lambda part: run(lambda: transmit(part, deadline=deadline)))
            else:
                run(lambda: transmit(request, deadline=deadline))
        gradient = request.gradient()
        return gradient if out is None else out
