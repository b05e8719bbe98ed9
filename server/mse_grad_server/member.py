"""One worker of the host as the supervisor sees it: the processes that serve its device, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from structlog.typing import FilteringBoundLogger

from mse_grad_server.clock import Clock, Timer
from mse_grad_server.exits import ExitCode
from mse_grad_server.restarts import Restarts
from mse_grad_server.roster import Endpoint, Placement
from mse_grad_server.state import State
from mse_grad_server.worker_process import Spawn, WorkerProcess

__all__ = ["Member"]

# So many looks without a sign of life, evenly spread over the time that a worker may be silent, and it counts as hung.
# By looks, not by time: a supervisor that was stopped itself has heard nobody, and everybody is well.
_LOOKS = 4
# How long past its own bounds a worker that drains is waited for.
_DRAIN_MARGIN_S = 15.0
_METRICS_TIMEOUT_S = 2.0


class Member:
    """Starts, watches and replaces one worker; belongs to the event loop.

    Attributes:
        endpoint: What clients are told of it.
        exit_code: How the process ended that was its last; None while it is not known to be.
        restarts: Why a process ended -> how often it was replaced then.
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
        hang_s: float,
        drain_timeout_s: float,
        restart_limit: int,
    ) -> None:
        """Takes what it starts.

        Args:
            placement: What its processes are started with.
            endpoint: Where they listen, and for which device.
            spawn: Starts one.
            clock: Says when to look and when to start again.
            log: Has a line for each start and end.
            on_change: Called when its state has changed, or it has a new process.
            hang_s: How long a process may be silent.
            drain_timeout_s: How long one that drains may take.
            restart_limit: How many failures in a row are the last.
        """
        self.endpoint = endpoint
        self.exit_code: int | None = None
        self.restarts: dict[str, int] = {}
        self._placement = placement
        self._spawn = spawn
        self._clock = clock
        self._log = log.bind(worker=placement.worker)
        self._on_change = on_change
        self._look_s = hang_s / _LOOKS
        self._drain_s = drain_timeout_s + _DRAIN_MARGIN_S
        self._rule = Restarts(restart_limit)
        self._process: WorkerProcess | None = None
        self._killed_for = ""
        self._silent_looks = 0
        self._stopping = asyncio.Event()
        self._is_forced = False
        self._settled = asyncio.Event()  # the process has been ready
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[list[Any] | None]] = {}
        self._timers: dict[str, Timer] = {}

    @property
    def worker(self) -> str:
        """Its name."""
        return self._placement.worker

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""
        return self._process is not None

    async def keep(self, turn: asyncio.Lock) -> None:
        """Runs a process after another until it is stopped or given up.

        Args:
            turn: Held while a process starts, so that members start one after another.
        """
        while not self._stopping.is_set():
            async with turn:
                if self._stopping.is_set():
                    break
                self._settled.clear()
                serving = asyncio.ensure_future(self._serve())
                settled = asyncio.ensure_future(self._settled.wait())
                await asyncio.wait({serving, settled}, return_when=asyncio.FIRST_COMPLETED)
                settled.cancel()
            self.exit_code = await serving
            if self._stopping.is_set():
                break
            delay_s = self._ended(self.exit_code)
            if delay_s is None:
                return
            self.exit_code = None
            await self._pause(delay_s)

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message to its process, if it has one."""
        if self._process is not None:
            self._process.send(message)

    async def metrics(self) -> list[Any] | None:
        """Returns the metrics of its process, or None where it has none or does not answer."""
        if self._process is None:
            return None
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.send({"metrics": number})
        try:
            return await asyncio.wait_for(answer, _METRICS_TIMEOUT_S)
        except asyncio.TimeoutError:
            return None
        finally:
            del self._asked[number]

    def stop(self) -> None:
        """Starts no more processes, and asks the one that runs to drain; it is killed where that takes too long."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
            self._kill_later()

    def kill(self) -> None:
        """Ends its process at once, and starts no more."""
        self._is_forced = True
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    async def _serve(self) -> int:
        try:
            process = await self._spawn(self._placement)
        except OSError as error:
            self._log.error("worker_not_started", message=str(error))
            return ExitCode.FAILED
        self._process, self._killed_for, self._silent_looks = process, "", 0
        self._log.info("worker_started", pid=process.pid, listen=self.endpoint.address)
        self._on_change()
        self._look_later()
        if self._is_forced:
            process.kill()
        elif self._stopping.is_set():
            self.stop()
        while (message := await process.receive()) is not None:
            self._heard(message)
        code = await process.wait()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)
        self._process = None
        return code

    def _heard(self, message: dict[str, Any]) -> None:
        self._silent_looks = 0
        if "families" in message:
            answer = self._asked.get(message["metrics"])
            if answer is not None and not answer.done():
                answer.set_result(message["families"])
        if "state" in message and not self._killed_for:
            state = State(message["state"])
            if state is State.READY:
                self._rule.ready(self._clock.now())
                self._settled.set()
            elif state is State.DRAINING:
                self._kill_later()
            self._become(state)

    def _become(self, state: State) -> None:
        if state is not self.endpoint.state:
            self.endpoint = replace(self.endpoint, state=state)
            self._on_change()

    def _ended(self, code: int) -> float | None:
        reason = self._killed_for or _reason_of(code)
        delay_s = self._rule.ended(code, self._clock.now())
        if delay_s is None:
            self._log.error("worker_given_up", exit_code=code, reason=reason)
            self._become(State.GONE)
        else:
            self.restarts[reason] = self.restarts.get(reason, 0) + 1
            self._log.warning("worker_ended", exit_code=code, reason=reason, restart_in_s=delay_s)
            self._become(State.STARTING)
        return delay_s

    def _look_later(self) -> None:
        self._timers["look"] = self._clock.call_at(self._clock.now() + self._look_s, self._look)

    def _look(self) -> None:
        self._silent_looks += 1
        if self._silent_looks > _LOOKS:
            self._kill_for("silent")
        self._look_later()

    def _kill_later(self) -> None:
        if "drain" not in self._timers:
            when_s = self._clock.now() + self._drain_s
            self._timers["drain"] = self._clock.call_at(when_s, lambda: self._kill_for("drain_timeout"))

    def _kill_for(self, reason: str) -> None:
        if self._process is not None and not self._killed_for:
            self._killed_for = reason
            self._log.error("worker_killed", pid=self._process.pid, reason=reason)
            self._process.kill()
            self._become(State.STARTING)  # also where it does not die at once: a driver may hold it

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
