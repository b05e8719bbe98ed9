"""Connection of a client while none of its many servers is in use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn

from typing_extensions import override

from mse_grad_client.errors import MseGradError
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.interrupts import Latch
from mse_grad_client.options import ClientOptions
from mse_grad_client.retry import Awaited
from mse_grad_client.routing.arrivals import Arrivals, Waiting
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.credentials import Credentials
from mse_grad_client.routing.target import Target
from mse_grad_client.stream.stream import Stream

__all__ = ["NoServer"]


class NoServer(Connection):
    """Takes the place of a connection: opens none, but waits for a server and lets the request go there.

    Args:
        target: The servers.
        options: Options of the client.
        credentials: Certificates and tokens of the client.
        closed: Set when the client is closed.
        arrivals: Waits for a server.
        is_there: Whether a server is in use.
    """

    def __init__(
        self,
        target: Target,
        *,
        options: ClientOptions,
        credentials: Credentials,
        closed: Latch,
        arrivals: Arrivals,
        is_there: Callable[[], bool],
    ) -> None:
        super().__init__(target.first, options=options, credentials=credentials, closed=closed)
        self._servers = str(target)
        self._arrivals = arrivals
        self._is_there = is_there

    @override
    def arrival(self) -> AbstractContextManager[Waiting]:
        closed = self._why_closed()
        if closed is not None:
            raise closed
        return self._arrivals.waiting(self._is_there, target=self._servers)

    @override
    def call(self, method: str, message: bytes, *, info: CallInfo, deadline: float | None) -> bytes:
        self._await(deadline)

    @override
    def transport(self, *, deadline: float | None, may_wait: bool) -> tuple[str, str]:
        self._await(deadline)

    @override
    def close(self, error: MseGradError) -> None:
        super().close(error)
        self._arrivals.close(error)

    @override
    def _live_stream(self, deadline: float | None = None) -> tuple[Stream, bool]:
        self._await(deadline)

    def _await(self, deadline: float | None) -> NoReturn:
        closed = self._why_closed()
        if closed is not None:
            raise closed
        self._arrivals.wait(self._is_there, deadline=deadline, target=self._servers)
        raise Awaited(f"a server of {self._servers} is ready")
