"""A user's code with every public name of the SDK: `make lint` checks its types, `test_public.py` its completeness."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, assert_type

import numpy as np

from mse_grad.tensor import Array
from mse_grad_client import (
    AsyncMseGradClient,
    CallInfo,
    Cancelled,
    ClientClosed,
    ClientMetrics,
    ClientOptions,
    DeadlineExceeded,
    Interceptor,
    InternalError,
    InvalidArgument,
    MseGradClient,
    MseGradError,
    PermissionDenied,
    ResourceExhausted,
    RetryOptions,
    ServerInfo,
    TlsFailed,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from mse_grad_client.pytorch import MSELoss, mse_loss

ERRORS: tuple[type[MseGradError], ...] = (
    *(Cancelled, ClientClosed, DeadlineExceeded, InternalError, InvalidArgument, PermissionDenied),
    *(ResourceExhausted, TlsFailed, Unauthenticated, Unavailable, Unimplemented),
)
BUILT_IN: tuple[type[Exception], ...] = (ValueError, TimeoutError, ConnectionError, PermissionError, RuntimeError)


def connect() -> MseGradClient:
    options = ClientOptions(timeout_s=5.0, retry=RetryOptions(max_attempts=3))
    return MseGradClient("127.0.0.1:50051", options=options)


def compute(client: MseGradClient, x: Array) -> list[Array]:
    out = client.empty((2, 3), "float32")
    y = client.compute(x, x, 1.0, "sum", out=out, timeout_s=1.0)
    whole = client.compute_unary(x.tolist(), [0.5], np.float32(1), "mean", numel=10)
    many = client.compute_many([(x, x, x), [x, x, 1.0]], "none")
    assert_type(many, list[Array])
    return [y, whole, *many]


def compute_items(client: MseGradClient, items: Iterator[tuple[Array, Array, float]]) -> list[MseGradError]:
    results = client.compute_many(items, return_errors=True)
    assert_type(results, list[Array | MseGradError])
    return [result for result in results if isinstance(result, MseGradError)]


class Named:
    """An interceptor, and metrics."""

    @contextmanager
    def intercept(self, call: CallInfo) -> Iterator[None]:
        call.metadata["team"] = call.method
        yield

    def call_ended(self, call: CallInfo, seconds: float, error: BaseException | None) -> None:
        print(call.request_id, seconds, error)

    def retried(self, request_id: str, error: Exception) -> None:
        print(request_id, error)

    def connected(self, address: str) -> None:
        print(address)


def watched() -> ClientOptions:
    interceptor: Interceptor = Named()
    metrics: ClientMetrics = Named()
    return ClientOptions(interceptors=(interceptor,), metrics=metrics)


def submit(client: MseGradClient, x: Array) -> Array:
    future = client.submit(x, x, 1.0, request_id="step-1")
    assert_type(future, Future[Array])
    return future.result()


async def awaited(items: AsyncIterator[tuple[Array, Array, float]]) -> list[Array]:
    async with AsyncMseGradClient("127.0.0.1:50051", options=watched()) as client:
        info: ServerInfo = await client.wait_ready(timeout_s=10)
        assert_type(await client.server_info(timeout_s=1.0), ServerInfo)
        x = client.empty((2, 3), info.dtypes[0])
        y = await client.compute(x, x, 1.0, "sum", metadata={"step": "1"})
        whole = await client.compute_unary(x, x, 1.0, out=client.empty((2, 3)))
        many = [each async for each in client.compute_many(items)]
        assert_type(many, list[Array])
        async for result in client.compute_many([(x, x, x)], return_errors=True):
            assert_type(result, Array | MseGradError)
        await client.close()
        return [y, whole, *many]


def describe(client: MseGradClient) -> str:
    info: ServerInfo = client.wait_ready(timeout_s=10)
    assert_type(client.server_info(timeout_s=1.0), ServerInfo)
    return f"{client.address} {client.options.timeout_s} {info.version} {info.backend} {info.dtypes} {info.transport}"


def tell(error: MseGradError) -> tuple[str, str, str, float | None]:
    reason = error.reason.value if error.reason else ""
    return error.message, f"{error.code.name} {reason}", error.request_id, error.retry_delay_s


def train(client: MseGradClient, predict: Any, target: Any) -> None:
    loss = MSELoss("sum", client=client)
    loss(predict, target).backward()
    mse_loss(predict, target, reduction="mean", client=client).backward()


def main() -> None:
    with connect() as client:
        try:
            compute(client, np.ones((2, 3), "f4"))
        except ERRORS as error:
            tell(error)
        except BUILT_IN:
            client.close()
