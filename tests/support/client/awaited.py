"""`AsyncMseGradClient` behind the surface of `MseGradClient`: every call is a task of an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from mse_grad.tensor import Array
from mse_grad_client import AsyncMseGradClient, ClientOptions, MseGradClient, ServerInfo

__all__ = ["CLIENTS", "AwaitedClient"]

Value = TypeVar("Value")


class AwaitedClient(MseGradClient):
    """An asynchronous client for tests of the blocking one.

    Args:
        address: As for AsyncMseGradClient.
        options: As for AsyncMseGradClient.
    """

    def __init__(self, address: str | Sequence[str], *, options: ClientOptions | None = None) -> None:
        self._client = AsyncMseGradClient(address, options=options)
        self._options, self._transport = self._client._options, self._client._transport
        self._given = self._client._given
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def compute(self, *operands: Any, **options: Any) -> Array:
        return self._result(self._client.compute(*operands, **options))

    def compute_unary(self, *operands: Any, **options: Any) -> Array:
        return self._result(self._client.compute_unary(*operands, **options))

    def compute_many(self, items: Iterable[Sequence[Any]], *arguments: Any, **options: Any) -> list[Any]:
        async def compute() -> list[Any]:
            return [each async for each in self._client.compute_many(items, *arguments, **options)]

        return self._result(compute())

    def server_info(self, **options: Any) -> ServerInfo:
        return self._result(self._client.server_info(**options))

    def wait_ready(self, timeout_s: float) -> ServerInfo:
        return self._result(self._client.wait_ready(timeout_s))

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._result(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _result(self, call: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


CLIENTS: dict[str, type[MseGradClient]] = {"blocking": MseGradClient, "awaited": AwaitedClient}
"""Both clients, as parameters of a fixture."""
