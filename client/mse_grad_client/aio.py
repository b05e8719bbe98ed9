"""Client of a gradient server for asyncio."""

from __future__ import annotations

import sys
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, overload

from numpy.typing import ArrayLike

from mse_grad.reasons import Reason
from mse_grad.tensor import Array
from mse_grad_client.base import ClientBase, close_both
from mse_grad_client.batching import PackedGradients
from mse_grad_client.errors import InvalidArgument, MseGradError
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.kinds import are_tensors
from mse_grad_client.options import ClientOptions
from mse_grad_client.readiness import server_info, wait_ready
from mse_grad_client.request import GradientRequest
from mse_grad_client.routing.tasks import Tasks
from mse_grad_client.server_info import ServerInfo
from mse_grad_client.splitting import compute_in_tasks
from mse_grad_client.stream.pending import PendingRequest

__all__ = ["AsyncMseGradClient"]


class AsyncMseGradClient(ClientBase):
    """Computes gradients of the mean squared error on a server, for asyncio tasks.

    The surface of `MseGradClient`, with `await`. It works in any running event loop, in several loops of several
    threads at the same time, and under anyio on asyncio. Tasks that compute at the same time share messages.

    If a task is cancelled, its request is cancelled on the server. Nothing is written to `out` once the task has ended.

    The loop's thread copies operands, chunk by chunk. It never waits for the network.

    Example:
        async with AsyncMseGradClient("127.0.0.1:50051") as client:
            gradient = await client.compute(predict, label, dout, "mean")

    Args:
        address: Address of one server or of many; see MseGradClient.
        options: Options of the client.

    Raises:
        ValueError, TlsFailed, Unauthenticated: As `MseGradClient`.
    """

    def __init__(self, address: str | Sequence[str], *, options: ClientOptions | None = None) -> None:
        super().__init__(address, options=options)
        self._tasks = Tasks(self._transport)
        self._close = weakref.finalize(self, close_both, self._transport, self._submissions)

    async def compute(
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
        """Returns `2 * (predict - label) * dout`, divided by N for "mean"; see MseGradClient.compute.

        The operands must not change until the call has ended. PyTorch tensors are not accepted; `tensor.numpy()`
        shares their memory.
        """
        operands = (predict, label, dout)
        return await self._compute(
            "compute", operands, reduction, out, numel, timeout_s, request_id, metadata, split=split
        )

    async def compute_unary(
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
        """Computes like `compute`, but with the unary RPC; see MseGradClient.compute_unary."""
        return await self._compute(
            "compute_unary", (predict, label, dout), reduction, out, numel, timeout_s, request_id, metadata
        )

    @overload
    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]] | AsyncIterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        return_errors: Literal[False] = False,
    ) -> AsyncIterator[Array]: ...

    @overload
    def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]] | AsyncIterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        return_errors: Literal[True],
    ) -> AsyncIterator[Array | MseGradError]: ...

    async def compute_many(
        self,
        items: Iterable[Sequence[ArrayLike]] | AsyncIterable[Sequence[ArrayLike]],
        reduction: str = "mean",
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        return_errors: bool = False,
    ) -> AsyncIterator[Any]:
        """Yields the gradients of many items, in their order, as they come.

        It takes further items only as fast as gradients are taken from it. A gradient may have to wait until a pack of
        items with its shape is full, or the items have ended.

        Args:
            items: As for `MseGradClient.compute_many`, or an asynchronous iterable.
            reduction: The reduction of each item's loss.
            timeout_s: Time for the whole call in seconds; None for `options.timeout_s`.
            request_id: As for `MseGradClient.compute_many`.
            metadata: As for `MseGradClient.compute`.
            return_errors: Whether a failed item leaves its error in its place. Otherwise its error is raised when its
                turn comes, and the requests under way are cancelled.

        Raises:
            MseGradError: As `compute`, unless `return_errors`; names the item that failed.
        """
        deadline = self._transport.deadline(timeout_s)
        with self._calls.around_many(reduction, request_id, metadata) as call:
            gradients = self._gradients(items, reduction, deadline, call)
            found: dict[int, Array | MseGradError] = {}
            position = 0
            try:
                while (results := await gradients.next_results()) is not None:
                    found.update(results)
                    while position in found:
                        gradient = found.pop(position)
                        if isinstance(gradient, MseGradError) and not return_errors:
                            raise gradient
                        yield gradient
                        position += 1
            finally:
                await gradients.cancel()

    async def server_info(self, *, timeout_s: float | None = None, request_id: str = "") -> ServerInfo:
        """Returns the server's description of itself; raises MseGradError as `compute` does."""
        deadline, waiter = self._transport.deadline(timeout_s), self._tasks.waiter()
        with self._calls.around("server_info", request_id=request_id) as call:
            return await self._tasks.run(lambda: server_info(self._transport, deadline, call.request_id, waiter))

    async def wait_ready(self, timeout_s: float) -> ServerInfo:
        """Waits until a worker of the server accepts requests; see MseGradClient.wait_ready."""
        waiter = self._tasks.waiter()
        return await self._tasks.run(lambda: wait_ready(self._transport, timeout_s, waiter))

    async def close(self) -> None:
        """Closes all connections; calls under way fail with ClientClosed. A second call does nothing."""
        await self._tasks.waiter().in_thread(self._close)

    async def __aenter__(self) -> AsyncMseGradClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _compute(
        self,
        method: str,
        operands: tuple[ArrayLike, ArrayLike, ArrayLike],
        reduction: str,
        out: Array | None,
        numel: int,
        timeout_s: float | None,
        request_id: str,
        metadata: Mapping[str, str] | None,
        split: bool = False,
    ) -> Array:
        if "torch" in sys.modules and are_tensors(*operands[:2], out):
            raise InvalidArgument(
                "the asynchronous client takes arrays; share a tensor's memory with numpy(), or compute it with "
                "MseGradClient",
                reason=Reason.OPERAND_UNSUPPORTED,
            )
        deadline = self._transport.deadline(timeout_s)
        request = GradientRequest.prepare(*operands, reduction, out=out, numel=numel)
        transmit = self._transport.run_unary if method == "compute_unary" else self._transport.run

        async def send(part: GradientRequest) -> None:
            waiter = part.task = self._tasks.waiter()
            await self._tasks.run(lambda: transmit(part, deadline=deadline, waiter=waiter), part)

        with self._calls.around_one(method, request, request_id, metadata):
            await (compute_in_tasks(request, send) if split else send(request))
        gradient = request.gradient()
        return gradient if out is None else out

    def _gradients(
        self,
        items: Iterable[Sequence[ArrayLike]] | AsyncIterable[Sequence[ArrayLike]],
        reduction: str,
        deadline: float | None,
        call: CallInfo | None,
    ) -> PackedGradients:
        transport, tasks, waiter = self._transport, self._tasks, self._tasks.waiter()

        async def start(request: GradientRequest) -> PendingRequest | None:
            request.task = waiter
            return await tasks.run(lambda: transport.start(request, deadline=deadline, waiter=waiter), request)

        async def finish(request: GradientRequest, pending: PendingRequest | None) -> None:
            await tasks.run(lambda: transport.run(request, deadline=deadline, pending=pending, waiter=waiter), request)

        async def cancel(request: GradientRequest, pending: PendingRequest) -> None:
            await tasks.run(lambda: transport.cancel(request, pending, waiter=waiter), request)

        return PackedGradients(
            items,
            reduction,
            call=call,
            start=start,
            finish=finish,
            cancel=cancel,
            empty=transport.empty,
            takes_async=True,
        )
