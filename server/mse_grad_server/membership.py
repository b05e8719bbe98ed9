"""What a worker tells its supervisor, and hears from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mse_grad_server.clock import Clock, Timer
from mse_grad_server.link import Link
from mse_grad_server.roster import Endpoint
from mse_grad_server.state import State

__all__ = ["BEAT_S", "Membership"]

BEAT_S = 1.0
"""How often a worker says that its event loop runs."""


class Membership:
    """One worker's place among its neighbours; belongs to the event loop.

    Attributes:
        common_address: The port that it shares with them, or "".
    """

    def __init__(self, link: Link, clock: Clock, *, address: str, common_address: str) -> None:
        """Takes what connects it.

        Args:
            link: To the supervisor.
            clock: Says when to beat.
            address: Where this worker alone listens; finds it among the endpoints.
            common_address: See Attributes.
        """
        self.common_address = common_address
        self._link = link
        self._clock = clock
        self._address = address
        self._endpoints: tuple[Endpoint, ...] = ()
        self._beating: Timer | None = None

    def endpoints(self, own_state: State) -> tuple[Endpoint, ...]:
        """Returns every worker of the host, none before it was told; of itself it knows best."""
        return tuple(
            Endpoint(at.address, at.device, own_state) if at.address == self._address else at for at in self._endpoints
        )

    def report(self, state: State) -> None:
        """Tells the supervisor the state of this worker."""
        self._link.send({"state": state.value})

    async def attend(self, samples: Callable[[], list[Any]]) -> None:
        """Beats, and hears the supervisor, until that has ended.

        Args:
            samples: Returns this worker's metrics, as JSON.
        """
        self._beat()
        try:
            while (message := await self._link.receive()) is not None:
                if "endpoints" in message:
                    self._endpoints = tuple(Endpoint.of_json(values) for values in message["endpoints"])
                if "metrics" in message:
                    self._link.send({"metrics": message["metrics"], "families": samples()})
        finally:
            if self._beating is not None:
                self._beating.cancel()

    def _beat(self) -> None:
        self._link.send({})
        self._beating = self._clock.call_at(self._clock.now() + BEAT_S, self._beat)
