"""The application of Ray Serve: `serve run mse_grad_ray.application:application`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream

from mse_grad_ray.replica import Answer, Replica

__all__ = ["MseGrad", "application"]


class MseGrad:
    """The deployment; Ray calls each method by the name that it has in the contract."""

    # Ray awaits a constructor that is a coroutine.
    async def __init__(self, settings: Mapping[str, Any]) -> None:  # type: ignore[misc]
        self._replica = Replica(settings)
        try:
            await self._replica.open()
        except BaseException:
            await self._replica.close()
            raise

    async def __del__(self) -> None:  # Ray awaits it when it removes the replica
        await self._replica.close()

    async def check_health(self) -> None:
        """Raises if Ray has to replace this replica."""
        self._replica.check()

    async def ComputeGradient(self, message: bytes, grpc_context: RayServegRPCContext) -> Answer:  # noqa: N802
        """Answers one ComputeGradient RPC."""
        return await self._replica.compute_gradient(message, grpc_context)

    async def StreamGradients(  # noqa: N802
        self, messages: gRPCInputStream[bytes], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[Answer]:
        """Answers one StreamGradients RPC."""
        async for answer in self._replica.stream_gradients(messages, grpc_context):
            yield answer

    async def GetServerInfo(self, message: bytes, grpc_context: RayServegRPCContext) -> Answer:  # noqa: N802
        """Answers one GetServerInfo RPC."""
        return await self._replica.get_server_info(message, grpc_context)


def application(settings: dict[str, Any]) -> serve.Application:
    """Returns the application.

    Args:
        settings: Settings of the server of each replica; see `Replica`.
    """
    return serve.deployment(MseGrad).bind(settings)
