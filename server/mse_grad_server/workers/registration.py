"""Registration of a worker with its supervisor: heartbeat, state, metrics, and the endpoints of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mse_grad_server.process.clock import Clock, Timer
from mse_grad_server.process.state import State
from mse_grad_server.workers.protocol import ControlChannel, Endpoint

__all__ = ["HEARTBEAT_S", "Registration"]

HEARTBEAT_S = 1.0
"""Interval of the heartbeat, which shows that the worker's event loop runs."""


class Registration:
    """Registration of this process as one worker of its host; belongs to the event loop.

    Args:
        channel: Control channel to the supervisor.
        clock: Schedules the heartbeat.
        address: Address on which this worker alone listens; identifies it among the endpoints.
        common_address: Port that all workers of the host share, or "".

    Attributes:
        common_address: Port that all workers of the host share, or "".
    """

    def __init__(self, channel: ControlChannel, clock: Clock, *, address: str, common_address: str) -> None:
        self.common_address = common_address
        self._channel = channel
        self._clock = clock
        self._address = address
        self._endpoints: tuple[Endpoint, ...] = ()
        self._heartbeat: Timer | None = None

    def endpoints(self, own_state: State) -> tuple[Endpoint, ...]:
        """Returns every worker of the host; none before the supervisor has sent them.

        Args:
            own_state: State of this worker, which it knows before its supervisor does.
        """
        return tuple(
            Endpoint(at.address, at.device, own_state) if at.address == self._address else at for at in self._endpoints
        )

    def report(self, state: State) -> None:
        """Reports the state of this worker to the supervisor."""
        self._channel.send({"state": state.value})

    async def attend(self, samples: Callable[[], list[Any]]) -> None:
        """Sends heartbeats and handles messages of the supervisor until it has ended, or has sent a broken one.

        Args:
            samples: Returns this worker's metrics as JSON.
        """
        self._send_heartbeat()
        try:
            while (message := await self._channel.receive()) is not None:
                if "endpoints" in message:
                    try:
                        self._endpoints = tuple(Endpoint.of_json(values) for values in message["endpoints"])
                    except (KeyError, TypeError, ValueError):
                        return
                if "metrics" in message:
                    self._channel.send({"metrics": message["metrics"], "families": samples()})
        finally:
            if self._heartbeat is not None:
                self._heartbeat.cancel()

    def _send_heartbeat(self) -> None:
        self._channel.send({})
        self._heartbeat = self._clock.call_at(self._clock.now() + HEARTBEAT_S, self._send_heartbeat)
