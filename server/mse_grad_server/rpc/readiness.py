"""Readiness of the server, announced to the common port, the health service and the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from mse_grad_server.process.exits import ListenError
from mse_grad_server.process.state import State
from mse_grad_server.rpc.common_port import CommonPort
from mse_grad_server.rpc.health import Health
from mse_grad_server.workers.registration import Registration

__all__ = ["Readiness"]


class Readiness:
    """Announcements of the state: first to the common port, then to health, then to the supervisor.

    Belongs to the event loop.

    Args:
        state_of: Returns the state of the server.
        health: Health service.
        log: Receives a line if the common port cannot be opened.
        common_port: Port that is open only while the server is ready; None if there is none.
        registration: Registration with the supervisor; None if there is none.
    """

    def __init__(
        self,
        state_of: Callable[[], State],
        health: Health,
        log: FilteringBoundLogger,
        *,
        common_port: CommonPort | None,
        registration: Registration | None,
    ) -> None:
        self._state_of = state_of
        self._health = health
        self._log = log
        self._common_port = common_port
        self._registration = registration
        self._announcing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False

    async def announce(self) -> None:
        """Announces the state that the server has when the announcement begins."""
        async with self._announcing:
            if self._is_draining:
                return
            is_ready = self._state_of() is State.READY
            await self._open_common_port(is_ready)
            await self._health.set_ready(is_ready)
            if self._registration is not None:
                self._registration.report(self._state_of())

    def announce_soon(self) -> None:
        """Announces the state in a task."""
        announcing = asyncio.ensure_future(self.announce())
        self._tasks.add(announcing)
        announcing.add_done_callback(self._tasks.discard)

    async def drain(self) -> asyncio.Task[None]:
        """Announces that the server drains, and no other state afterwards.

        Returns:
            Task that notifies the watchers of health; it does not end while one of them does not read.
        """
        async with self._announcing:
            self._is_draining = True
            await self._open_common_port(False)
        if self._registration is not None:
            self._registration.report(State.DRAINING)
        return asyncio.ensure_future(self._health.drain())

    async def close(self, grace_s: float) -> None:
        """Closes the common port; cancels the RPCs that are left on it after `grace_s`."""
        if self._common_port is not None:
            await self._common_port.close(grace_s)

    async def _open_common_port(self, is_open: bool) -> None:
        if self._common_port is None:
            return
        try:
            await self._common_port.set_open(is_open)
        except ListenError as error:  # clients still reach the worker at its own address
            self._log.error("common_port", message=str(error))
