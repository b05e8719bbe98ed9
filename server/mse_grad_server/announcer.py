"""Tells everyone whom it concerns in which state the server is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from mse_grad_server.common_port import CommonPort
from mse_grad_server.exits import ListenError
from mse_grad_server.health import Health
from mse_grad_server.membership import Membership
from mse_grad_server.state import State

__all__ = ["Announcer"]


class Announcer:
    """The common port first, then those who watch the health, then the supervisor; belongs to the event loop."""

    def __init__(
        self,
        state_of: Callable[[], State],
        health: Health,
        log: FilteringBoundLogger,
        *,
        common_port: CommonPort | None,
        membership: Membership | None,
    ) -> None:
        """Takes whom to tell.

        Args:
            state_of: Returns the state.
            health: What probes and load balancers ask.
            log: Where it says that it cannot listen.
            common_port: Open only while the server is ready; None where there is none.
            membership: Reports to the supervisor; None where there is none.
        """
        self._state_of = state_of
        self._health = health
        self._log = log
        self._common_port = common_port
        self._membership = membership
        self._turn = asyncio.Lock()
        self._telling: set[asyncio.Task[None]] = set()
        self._is_draining = False

    async def tell(self) -> None:
        """Tells the state that it is in by then."""
        async with self._turn:
            if self._is_draining:
                return
            is_ready = self._state_of() is State.READY
            await self._open_common_port(is_ready)
            await self._health.set_ready(is_ready)
            if self._membership is not None:
                self._membership.report(self._state_of())

    def tell_soon(self) -> None:
        """Likewise, without being waited for."""
        telling = asyncio.ensure_future(self.tell())
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def drain(self) -> asyncio.Task[None]:
        """Tells that the server drains, and nothing else from now on.

        Returns:
            The task that tells those who watch the health, of whom one may not read.
        """
        async with self._turn:
            self._is_draining = True
            await self._open_common_port(False)
        if self._membership is not None:
            self._membership.report(State.DRAINING)
        return asyncio.ensure_future(self._health.drain())

    async def close(self, grace_s: float) -> None:
        """Ends the calls that are left on the common port after `grace_s`."""
        if self._common_port is not None:
            await self._common_port.close(grace_s)

    async def _open_common_port(self, is_open: bool) -> None:
        if self._common_port is None:
            return
        try:
            await self._common_port.set_open(is_open)
        except ListenError as error:  # those who know the worker's own address reach it all the same
            self._log.error("common_port", message=str(error))
