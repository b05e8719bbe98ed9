"""Supervisor of a host: one worker process per device, their common address, one metrics page."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter
from structlog.typing import FilteringBoundLogger

from mse_grad_server.backends.ascend.startup.survey import survey
from mse_grad_server.metrics.endpoint import MetricsEndpoint
from mse_grad_server.process.clock import Clock, LoopClock
from mse_grad_server.process.exits import ExitCode, ListenError
from mse_grad_server.process.log_writer import LogWriter
from mse_grad_server.process.signals import on_stop_signals
from mse_grad_server.process.state import State
from mse_grad_server.security.credentials import CredentialFiles, Credentials
from mse_grad_server.settings.address import ALL_DEVICES, Address
from mse_grad_server.settings.listen_addresses import HeldPort, LeadingPath, WorkerPath
from mse_grad_server.settings.model import Settings
from mse_grad_server.workers.managed_worker import ManagedWorker, WorkerLimits
from mse_grad_server.workers.metrics_page import HostMetrics
from mse_grad_server.workers.process import Spawn, spawn
from mse_grad_server.workers.protocol import Endpoint, Placement

__all__ = ["Supervisor", "run"]

# Longest time for a metrics page. A worker that does not answer is left out long before.
_METRICS_TIMEOUT_S = 10.0


class Supervisor:
    """Supervisor of the workers of one host; construct, open and run it in one event loop.

    Args:
        settings: Settings of the host, with `is_supervised`. The supervisor passes them on to each worker.
        log: Log of the supervisor.
        start: Starts a worker process.
        clock: Clock; None for that of the event loop.
        lost_lines: Counter of lines that the log lost, shown on the metrics page.

    Attributes:
        workers: The workers, once it is open.
    """

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        *,
        start: Spawn = spawn,
        clock: Clock | None = None,
        lost_lines: Counter | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._start = start
        self._lost_lines = lost_lines
        self._clock = clock or LoopClock()
        self._loop = asyncio.get_running_loop()
        address = Address.parse(settings.listen)
        self._common: HeldPort | LeadingPath = LeadingPath(address) if address.path else HeldPort(address)
        self._own: list[HeldPort | WorkerPath] = []
        self.workers: list[ManagedWorker] = []
        self._is_ready = False
        self._is_stopping = False
        self._is_forced = False
        self._metrics_endpoint: MetricsEndpoint | None = None

    @property
    def address(self) -> Address:
        """Address that all workers share; the port is known after `open`."""
        return self._common.address

    def open(self) -> None:
        """Binds the addresses and opens the metrics page.

        Raises:
            StartError: It cannot; call `close` all the same.
        """
        # Each worker reads the files again. A wrong one must end the start here, before any worker.
        Credentials(CredentialFiles.of(self._settings), self._log).open()
        self._common.open()
        self.workers = [self._worker(*place) for place in self._places()]
        if self._settings.metrics_listen != "none":
            metrics = HostMetrics(
                self.workers, ask=self._ask_workers, is_ready=lambda: self._is_ready, lost_lines=self._lost_lines
            )
            self._metrics_endpoint = MetricsEndpoint.of(
                self._settings, metrics.registry, is_ready=lambda: self._is_ready, log=self._log
            )
            assert self._metrics_endpoint is not None
            self._metrics_endpoint.open()
        self._log.info("listening", **self._addresses())

    async def run(self) -> ExitCode:
        """Runs the workers until `stop` or `force`, or until all have failed for good; returns the exit code."""
        starting = asyncio.Lock()
        await asyncio.gather(*(worker.keep_running(starting) for worker in self.workers))
        if self._is_forced:
            return ExitCode.FORCED
        if self._is_stopping:
            codes = {worker.exit_code for worker in self.workers if worker.endpoint.state is not State.GONE}
            # A process that has just started has no signal handler yet, so SIGTERM ends it.
            return ExitCode.OK if codes <= {ExitCode.OK, -signal.SIGTERM, None} else ExitCode.FAILED
        codes = {worker.exit_code for worker in self.workers}
        code = codes.pop() if len(codes) == 1 else None
        exit_code = ExitCode(code) if code in tuple(ExitCode) else ExitCode.NO_WORKERS
        self._log.error("no_workers", message="every worker was given up; its last lines say why", exit_code=exit_code)
        return exit_code

    def stop(self) -> None:
        """Asks every worker to drain; `run` returns when all have drained."""
        self._is_stopping = True
        self._log.info("draining")
        for worker in self.workers:
            worker.stop()

    def force(self) -> None:
        """Kills every worker."""
        self._is_forced = True
        for worker in self.workers:
            worker.kill()

    def close(self) -> None:
        """Closes the metrics page and releases the addresses."""
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.close()
        for address in (self._common, *self._own):
            address.close()

    def _places(self) -> list[tuple[str, str, dict[str, Any]]]:
        numbers = self._settings.device_numbers
        if numbers:
            return [(f"npu:{number}", f"npu:{number}", {"device": number}) for number in numbers]
        return [(f"cpu:{index}", "cpu", {}) for index in range(self._settings.workers)]

    def _worker(self, name: str, device: str, values: dict[str, Any]) -> ManagedWorker:
        settings = self._settings
        address = self._own_address(name)
        own = {"listen": str(address), "metrics_listen": "none", "devices": "", "workers": 0, **values}
        direct = settings.direct_address
        if direct is not None and direct.port:
            own["direct_listen"] = str(direct.with_port(direct.port + len(self._own) - 1))
        return ManagedWorker(
            Placement(
                name,
                "" if self.address.path else str(self.address),
                {**settings.model_dump(mode="json"), **own},
            ),
            Endpoint(str(address), device, State.STARTING),
            spawn=self._start,
            clock=self._clock,
            log=self._log,
            on_change=self._changed,
            limits=WorkerLimits.of(settings),
        )

    def _own_address(self, name: str) -> Address:
        if self.address.path:
            own: HeldPort | WorkerPath = WorkerPath.beside(self.address, name)
        else:
            own = HeldPort(self.address.with_port(0))
        self._own.append(own)
        own.open()
        return own.address

    def _changed(self) -> None:
        endpoints = [worker.endpoint for worker in self.workers]
        for worker in self.workers:
            worker.send({"endpoints": [endpoint.as_json() for endpoint in endpoints]})
        ready = [endpoint for endpoint in endpoints if endpoint.state is State.READY]
        if isinstance(self._common, LeadingPath):
            try:
                self._common.lead_to(Address.parse(ready[0].address).path if ready else "")
            except ListenError as error:  # clients still reach the workers by their own sockets
                self._log.error("common_path", message=str(error))
        needed = 1 if self._settings.ready_when == "any" else len(self.workers)
        is_ready = len(ready) >= needed
        if is_ready is self._is_ready:
            return
        self._is_ready = is_ready
        counts = {"ready_workers": len(ready), "workers": len(self.workers)}
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
        answers = await asyncio.gather(*(worker.metrics() for worker in self.workers))
        return {
            worker.name: families
            for worker, families in zip(self.workers, answers, strict=True)
            if families is not None
        }


async def run(settings: Settings, log: FilteringBoundLogger, *, writer: LogWriter) -> ExitCode:
    """Supervises until SIGTERM, SIGINT or SIGHUP, then lets every worker drain; a second signal kills all workers.

    Raises:
        StartError: The host cannot start.
    """
    if settings.devices == ALL_DEVICES:
        settings = await asyncio.to_thread(_with_every_device, settings)
        log.info("devices_found", devices=settings.devices)
    supervisor = Supervisor(settings, log, lost_lines=writer.lost)
    try:
        supervisor.open()
        on_stop_signals(log, stop=supervisor.stop, force=supervisor.force)
        code = await supervisor.run()
        log.info("stopping")
        return code
    finally:
        await asyncio.to_thread(supervisor.close)


def _with_every_device(settings: Settings) -> Settings:
    # The survey runs in its own process: a supervisor that holds a device would not survive the failure of the device.
    found = survey(
        settings.ascend_runtime_folder,
        settings.ascend_op_library,
        os.environ,
        timeout_s=settings.device_hang_s,
        loads_operator=False,
    )
    # Constructed again, because defaults of memory depend on the number of workers.
    return Settings(**{**settings.model_dump(exclude_unset=True), "devices": f"0-{found.device_count - 1}"})
