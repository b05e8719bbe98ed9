"""Worker under supervision: start, heartbeat checks, kill and restart of the processes that serve one device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from structlog.typing import FilteringBoundLogger

from mse_grad_server.process.clock import Clock, Timer
from mse_grad_server.process.exits import ExitCode
from mse_grad_server.process.state import State
from mse_grad_server.settings.model import Settings
from mse_grad_server.workers.process import Spawn, WorkerProcess
from mse_grad_server.workers.protocol import Endpoint, Placement, Report
from mse_grad_server.workers.restart_policy import RestartPolicy

__all__ = ["ManagedWorker", "WorkerLimits"]

# A worker is hung after this many consecutive checks without a message, evenly spread over the time that it may be
# silent. We count checks, not elapsed time: if the supervisor itself was suspended (SIGSTOP), it must not kill workers
# when it resumes.
_CHECKS = 4
# Time that a draining worker gets beyond its own drain timeout.
_DRAIN_MARGIN_S = 15.0
_METRICS_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class WorkerLimits:
    """Limits of one worker.

    Attributes:
        hang_s: Time that a process may be silent until it is killed.
        drain_timeout_s: Time that a process gives its requests to finish.
        restarts: Failures in a row that are restarted.
    """

    hang_s: float
    drain_timeout_s: float
    restarts: int

    @classmethod
    def of(cls, settings: Settings) -> WorkerLimits:
        """Returns the limits in `settings`."""
        return cls(settings.worker_hang_s, settings.drain_timeout_s, settings.worker_restarts)


class ManagedWorker:
    """Starts, checks and replaces the processes of one worker; belongs to the event loop.

    Args:
        placement: Settings of its processes.
        endpoint: Address and device of its processes.
        spawn: Starts a process.
        clock: Schedules checks and restarts.
        log: Receives a line for each start and end.
        on_change: Called when the state has changed, or the worker has a new process.
        limits: Limits of the worker.

    Attributes:
        endpoint: Endpoint as clients see it.
        exit_code: Exit code of the last process; None while another one may follow.
        restarts: Reason of an end -> number of processes that were replaced for it.
    """

    def __init__(
        self,
        placement: Placement,
        endpoint: Endpoint,
        *,
        spawn: Spawn,
        clock: Clock,
        log: FilteringBoundLogger,
        on_change: Callable[[], None],
        limits: WorkerLimits,
    ) -> None:
        self.endpoint = endpoint
        self.exit_code: int | None = None
        self.restarts: dict[str, int] = {}
        self._placement = placement
        self._spawn = spawn
        self._clock = clock
        self._log = log.bind(worker=placement.worker)
        self._on_change = on_change
        self._check_s = limits.hang_s / _CHECKS
        self._drain_s = limits.drain_timeout_s + _DRAIN_MARGIN_S
        self._restart_policy = RestartPolicy(limits.restarts)
        self._process: WorkerProcess | None = None
        self._killed_for = ""
        self._silent_checks = 0
        self._stopping = asyncio.Event()
        self._is_forced = False
        self._settled = asyncio.Event()  # set once the process has been ready
        self._numbers = count(1)
        self._metrics_requests: dict[int, asyncio.Future[list[Any] | None]] = {}
        self._timers: dict[str, Timer] = {}

    @property
    def name(self) -> str:
        """Name of the worker, such as "npu:3"."""
        return self._placement.worker

    @property
    def is_running(self) -> bool:
        """Whether the worker has a process."""
        return self._process is not None

    async def keep_running(self, starting: asyncio.Lock) -> None:
        """Runs one process after another until `stop`, `kill`, or the last failure that the restart policy allows.

        Args:
            starting: Lock held while a process starts, so that workers start one after another.
        """
        while not self._stopping.is_set():
            async with starting:
                if self._stopping.is_set():
                    break
                self._settled.clear()
                serving = asyncio.ensure_future(self._run_process())
                settled = asyncio.ensure_future(self._settled.wait())
                await asyncio.wait({serving, settled}, return_when=asyncio.FIRST_COMPLETED)
                settled.cancel()
            self.exit_code = await serving
            if self._stopping.is_set():
                break
            delay_s = self._process_ended(self.exit_code)
            if delay_s is None:
                return
            self.exit_code = None
            await self._pause(delay_s)

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message to the process; does nothing without one."""
        if self._process is not None:
            self._process.send(message)

    async def metrics(self) -> list[Any] | None:
        """Returns the metrics of the process, or None if there is no process or it does not answer."""
        if self._process is None:
            return None
        number = next(self._numbers)
        answer = self._metrics_requests[number] = asyncio.get_running_loop().create_future()
        self.send({"metrics": number})
        try:
            return await asyncio.wait_for(answer, _METRICS_TIMEOUT_S)
        except TimeoutError:
            return None
        finally:
            del self._metrics_requests[number]

    def stop(self) -> None:
        """Asks the process to drain and starts no other; kills it if that takes too long."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
            self._kill_later()

    def kill(self) -> None:
        """Kills the process and starts no other."""
        self._is_forced = True
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    async def _run_process(self) -> int:
        try:
            process = await self._spawn(self._placement)
        except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.11 found no thread that waits for the process
            self._log.error("worker_not_started", message=str(error))
            return ExitCode.FAILED
        self._process, self._killed_for, self._silent_checks = process, "", 0
        self._log.info("worker_started", pid=process.pid, listen=self.endpoint.address)
        self._on_change()
        self._check_later()
        if self._is_forced:
            process.kill()
        elif self._stopping.is_set():
            self.stop()
        await self._listen_to(process)
        code = await process.wait()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for answer in self._metrics_requests.values():
            if not answer.done():
                answer.set_result(None)
        self._process = None
        return code

    async def _listen_to(self, process: WorkerProcess) -> None:
        """Handles messages until the process has ended, or has sent one that is broken: from then on it is silent."""
        while (message := await process.receive()) is not None:
            try:
                report = Report.of_json(message)
            except ValueError:
                self._log.error("worker_message_broken", pid=process.pid)
                return
            self._handle(report)

    def _handle(self, report: Report) -> None:
        self._silent_checks = 0
        if report.metrics_request is not None:
            answer = self._metrics_requests.get(report.metrics_request)
            if answer is not None and not answer.done():
                answer.set_result(report.families)
        if report.state is not None and not self._killed_for:
            if report.state is State.READY:
                self._restart_policy.ready(self._clock.now())
                self._settled.set()
            elif report.state is State.DRAINING:
                self._kill_later()
            self._set_state(report.state)

    def _set_state(self, state: State) -> None:
        if state is not self.endpoint.state:
            self.endpoint = replace(self.endpoint, state=state)
            self._on_change()

    def _process_ended(self, code: int) -> float | None:
        reason = self._killed_for or _reason_of(code)
        delay_s = self._restart_policy.ended(code, self._clock.now())
        if delay_s is None:
            self._log.error("worker_given_up", exit_code=code, reason=reason)
            self._set_state(State.GONE)
        else:
            self.restarts[reason] = self.restarts.get(reason, 0) + 1
            self._log.warning("worker_ended", exit_code=code, reason=reason, restart_in_s=delay_s)
            self._set_state(State.STARTING)
        return delay_s

    def _check_later(self) -> None:
        self._timers["check"] = self._clock.call_at(self._clock.now() + self._check_s, self._check)

    def _check(self) -> None:
        self._silent_checks += 1
        if self._silent_checks > _CHECKS:
            self._kill_for("silent")
        self._check_later()

    def _kill_later(self) -> None:
        if "drain" not in self._timers:
            when_s = self._clock.now() + self._drain_s
            self._timers["drain"] = self._clock.call_at(when_s, lambda: self._kill_for("drain_timeout"))

    def _kill_for(self, reason: str) -> None:
        if self._process is not None and not self._killed_for:
            self._killed_for = reason
            self._log.error("worker_killed", pid=self._process.pid, reason=reason)
            self._process.kill()
            self._set_state(State.STARTING)  # now, since a driver may delay the death of the process

    async def _pause(self, seconds: float) -> None:
        waking = asyncio.Event()
        timer = self._clock.call_at(self._clock.now() + seconds, waking.set)
        waits = [asyncio.ensure_future(event.wait()) for event in (waking, self._stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        for wait in waits:
            wait.cancel()


def _reason_of(code: int) -> str:
    if code < 0:
        return "signal"
    return ExitCode(code).name.lower() if code in tuple(ExitCode) else ExitCode.FAILED.name.lower()
