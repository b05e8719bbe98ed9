"""Readiness of a server, and the transport that gradients take to it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mse_grad.reasons import Reason
from mse_grad_client.errors import ClientClosed, DeadlineExceeded, Unavailable
from mse_grad_client.routing.transport import Transport
from mse_grad_client.routing.waiter import Waiter

if TYPE_CHECKING:
    from mse_grad_client.server_info import ServerInfo

__all__ = ["server_info", "wait_ready"]

_POLL_S = 0.02


async def server_info(transport: Transport, deadline: float | None, request_id: str, waiter: Waiter) -> ServerInfo:
    """Returns the server's description of itself; see MseGradClient.server_info."""
    from mse_grad_client.server_info import ServerInfo  # few programs ask for it, and this import takes 3 ms

    answer = await transport.server_info(deadline=deadline, request_id=request_id, waiter=waiter)
    return await _with_transport(transport, ServerInfo.of_wire(answer), deadline, waiter)


async def wait_ready(transport: Transport, timeout_s: float, waiter: Waiter) -> ServerInfo:
    """Returns the server's description of itself once a worker accepts requests; see MseGradClient.wait_ready."""
    from mse_grad_client.server_info import ServerInfo  # as above

    deadline = transport.deadline(timeout_s)
    found = "no answer"
    while not await waiter.pause(transport.closed, _POLL_S):
        try:
            info = ServerInfo.of_wire(await transport.server_info(deadline=deadline, once=True, waiter=waiter))
            if info.ready:
                return await _with_transport(transport, info, deadline, waiter)
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


async def _with_transport(transport: Transport, info: ServerInfo, deadline: float | None, waiter: Waiter) -> ServerInfo:
    """Returns `info` with the transport that gradients from here take."""
    in_use, direct_failure = await transport.transport_in_use(deadline=deadline, waiter=waiter)
    return replace(info, transport=in_use, direct_failure=direct_failure)
