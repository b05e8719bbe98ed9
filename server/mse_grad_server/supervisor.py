"""One process that starts a worker a device, replaces those that end, and speaks for all of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

from mse_grad_server.address import Address
from mse_grad_server.addresses import HeldPort, LeadingPath, WorkerPath
from mse_grad_server.clock import Clock, LoopClock
from mse_grad_server.config import Settings
from mse_grad_server.credentials import Credentials
from mse_grad_server.exits import ExitCode
from mse_grad_server.host_metrics import HostMetrics
from mse_grad_server.member import Member
from mse_grad_server.metrics_endpoint import MetricsEndpoint
from mse_grad_server.roster import Endpoint, Placement
from mse_grad_server.signals import on_stop_signals
from mse_grad_server.state import State
from mse_grad_server.worker_process import Spawn, spawn

__all__ = ["Supervisor", "run"]

# How long a page of metrics may take; a worker that does not answer has been left out long before.
_METRICS_TIMEOUT_S = 10.0


class Supervisor:
    """The workers of one host; made, opened and run in one event loop.

    Attributes:
        address: What all workers share; the port is known once it is open.
        members: The workers.
    """

    def __init__(
        self, settings: Settings, log: FilteringBoundLogger, *, start: Spawn = spawn, clock: Clock | None = None
    ) -> None:
        """Takes what it will run with.

        Args:
            settings: What it is told; `is_supervised`.
            log: Where events go.
            start: Starts a worker's process.
            clock: None for the clock of the loop.
        """
        self._settings = settings
        self._log = log
        self._start = start
        self._clock = clock or LoopClock()
        self._loop = asyncio.get_running_loop()
        address = Address.parse(settings.listen)
        self._common: HeldPort | LeadingPath = LeadingPath(address) if address.path else HeldPort(address)
        self._own: list[HeldPort | WorkerPath] = []
        self.members: list[Member] = []
        self._is_ready = False
        self._is_stopping = False
        self._is_forced = False
        self._metrics_endpoint: MetricsEndpoint | None = None

    @property
    def address(self) -> Address:
        """What all workers share; the port is known once it is open."""
        return self._common.address

    def open(self) -> None:
        """Takes the addresses and opens the metrics; raises StartError where it cannot; `close` follows."""
        Credentials(self._settings, self._log).open()  # which each worker does again: no start for a file that is wrong
        self._common.open()
        self.members = [self._member(*place) for place in self._places()]
        if self._settings.metrics_listen != "none":
            metrics = HostMetrics(self.members, ask=self._ask_workers, is_ready=lambda: self._is_ready)
            self._metrics_endpoint = MetricsEndpoint(
                metrics.registry, Address.parse(self._settings.metrics_listen), is_ready=lambda: self._is_ready
            )
            self._metrics_endpoint.open()
        self._log.info("listening", **self._addresses())

    async def run(self) -> ExitCode:
        """Keeps the workers running until it is stopped, or until none is left; returns how the process ends."""
        turn = asyncio.Lock()
        await asyncio.gather(*(member.keep(turn) for member in self.members))
        if self._is_forced:
            return ExitCode.FORCED
        if self._is_stopping:
            codes = {member.exit_code for member in self.members if member.endpoint.state is not State.GONE}
            # One that had just been started ends by the signal.
            return ExitCode.OK if codes <= {ExitCode.OK, -signal.SIGTERM, None} else ExitCode.FAILED
        codes = {member.exit_code for member in self.members}
        code = codes.pop() if len(codes) == 1 else None
        exit_code = ExitCode(code) if code in tuple(ExitCode) else ExitCode.NO_WORKERS
        self._log.error("no_workers", message="every worker was given up; its last lines say why", exit_code=exit_code)
        return exit_code

    def stop(self) -> None:
        """Asks every worker to drain; `run` returns once all have."""
        self._is_stopping = True
        self._log.info("draining")
        for member in self.members:
            member.stop()

    def force(self) -> None:
        """Ends every worker at once."""
        self._is_forced = True
        for member in self.members:
            member.kill()

    def close(self) -> None:
        """Gives the addresses back."""
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.close()
        for address in (self._common, *self._own):
            address.close()

    def _places(self) -> list[tuple[str, str, dict[str, Any]]]:
        numbers = self._settings.device_numbers
        if numbers:
            return [(f"npu:{number}", f"npu:{number}", {"device": number}) for number in numbers]
        return [(f"cpu:{index}", "cpu", {}) for index in range(self._settings.workers)]

    def _member(self, worker: str, device: str, values: dict[str, Any]) -> Member:
        settings = self._settings
        address = self._own_address(worker)
        own = {"listen": str(address), "metrics_listen": "none", "devices": "", "workers": 0, **values}
        return Member(
            Placement(
                worker,
                "" if self.address.path else str(self.address),
                {**settings.model_dump(mode="json"), **own},
            ),
            Endpoint(str(address), device, State.STARTING),
            spawn=self._start,
            clock=self._clock,
            log=self._log,
            on_change=self._changed,
            hang_s=settings.worker_hang_s,
            drain_timeout_s=settings.drain_timeout_s,
            restart_limit=settings.worker_restarts,
        )

    def _own_address(self, worker: str) -> Address:
        if self.address.path:
            own: HeldPort | WorkerPath = WorkerPath.beside(self.address, worker)
        else:
            own = HeldPort(self.address.with_port(0))
        self._own.append(own)
        own.open()
        return own.address

    def _changed(self) -> None:
        endpoints = [member.endpoint for member in self.members]
        for member in self.members:
            member.send({"endpoints": [endpoint.as_json() for endpoint in endpoints]})
        ready = [endpoint for endpoint in endpoints if endpoint.state is State.READY]
        if isinstance(self._common, LeadingPath):
            self._common.lead_to(Address.parse(ready[0].address).path if ready else "")
        needed = 1 if self._settings.ready_when == "any" else len(self.members)
        is_ready = len(ready) >= needed
        if is_ready is self._is_ready:
            return
        self._is_ready = is_ready
        counts = {"ready_workers": len(ready), "workers": len(self.members)}
        if is_ready:
            self._log.info("ready", **self._addresses(), **counts, pid=os.getpid())
        elif not self._is_stopping:
            self._log.warning("not_ready", **counts)

    def _addresses(self) -> dict[str, str]:
        endpoint = self._metrics_endpoint
        return {"listen": str(self.address), "metrics_listen": str(endpoint.address if endpoint else "none")}

    def _ask_workers(self) -> Mapping[str, list[Any]]:
        return asyncio.run_coroutine_threadsafe(self._metrics(), self._loop).result(_METRICS_TIMEOUT_S)

    async def _metrics(self) -> Mapping[str, list[Any]]:
        answers = await asyncio.gather(*(member.metrics() for member in self.members))
        return {
            member.worker: families
            for member, families in zip(self.members, answers, strict=True)
            if families is not None
        }


async def run(settings: Settings, log: FilteringBoundLogger) -> ExitCode:
    """Supervises until SIGTERM or SIGINT, and then lets every worker drain; a second signal ends all at once.

    Raises:
        StartError: The host cannot start.
    """
    supervisor = Supervisor(settings, log)
    try:
        supervisor.open()
        on_stop_signals(log, stop=supervisor.stop, force=supervisor.force)
        code = await supervisor.run()
        log.info("stopping")
        return code
    finally:
        await asyncio.to_thread(supervisor.close)
