"""Readiness of a server, and the way that gradients take to it."""

from __future__ import annotations

import time
from dataclasses import replace

from mse_grad.reasons import Reason
from mse_grad_client.errors import ClientClosed, DeadlineExceeded, Unavailable
from mse_grad_client.routing.transport import Transport
from mse_grad_client.routing.waiter import Waiter
from mse_grad_client.server_info import ServerInfo

__all__ = ["wait_ready", "with_transport"]

_POLL_S = 0.02


async def wait_ready(transport: Transport, timeout_s: float, waiter: Waiter) -> ServerInfo:
    """Returns the server's description of itself once a worker accepts requests; see MseGradClient.wait_ready."""
    deadline = transport.deadline(timeout_s)
    found = "no answer"
    while not await waiter.pause(transport.closed, _POLL_S):
        try:
            info = ServerInfo.of_wire(await transport.server_info(deadline=deadline, once=True, waiter=waiter))
            if info.ready:
                return await with_transport(transport, info, deadline, waiter)
            found = ", ".join(f"{endpoint.address} is {endpoint.state}" for endpoint in info.endpoints)
        except Unavailable as error:
            found = error.message
        except DeadlineExceeded:
            pass  # the previous answer says more
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded(
                f"{transport.address} was not ready within {timeout_s} s: {found}", reason=Reason.DEADLINE_EXCEEDED
            )
    raise ClientClosed("the client was closed")


async def with_transport(transport: Transport, info: ServerInfo, deadline: float | None, waiter: Waiter) -> ServerInfo:
    """Returns `info` with the transport that gradients from here take."""
    way, direct_failure = await transport.way(deadline=deadline, waiter=waiter)
    return replace(info, transport=way, direct_failure=direct_failure)
