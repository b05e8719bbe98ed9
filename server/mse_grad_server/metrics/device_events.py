"""Report of NPU events to the metrics, the log and the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from mse_grad_server.backends.ascend.acl.error_codes import AclError, WrongGradient
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.ascend.recovery.ladder import Rung
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.exits import StartError

__all__ = ["DeviceEvents"]


class DeviceEvents(Observer):
    """The observer of the backend ascend. Created in the event loop; any thread may call its methods.

    Args:
        metrics: The metrics of the server.
        log: Receives a line for each fault and repair.
        on_available: Called in the event loop with False when the device stops accepting gradients, and with True when
            it accepts them again.
        on_lost: Called in the event loop when no repair helps.
    """

    @override
    def __init__(
        self,
        metrics: Metrics,
        log: FilteringBoundLogger,
        *,
        on_available: Callable[[bool], None],
        on_lost: Callable[[StartError], None],
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._on_available = on_available
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()

    @override
    def opened(self, facts: Mapping[str, str]) -> None:
        self._metrics.device_found(soc=facts["soc"], cann=facts["cann_version"])
        self._metrics.device_available.set(1)
        self._log.info("device_opened", **facts)

    @override
    def started(self, step: str, seconds: float) -> None:
        self._metrics.started(step, seconds)

    @override
    def holds(self, *, device_bytes: int, pinned_bytes: int) -> None:
        self._metrics.device_memory_bytes.set(device_bytes)
        self._metrics.device_pinned_bytes.set(pinned_bytes)

    @override
    def memory_measured(self, *, free_bytes: int, total_bytes: int) -> None:
        self._metrics.device_free_bytes.set(free_bytes)
        self._metrics.device_total_bytes.set(total_bytes)

    @override
    def computed(self, blocks: int) -> None:
        self._metrics.device_blocks.inc(blocks)

    @override
    def planned(self) -> None:
        self._metrics.device_plans.inc()

    @override
    def reused(self) -> None:
        self._metrics.device_plan_hits.inc()

    @override
    def block_timed(self, *, queue_s: float, copy_in_s: float, kernel_s: float, copy_out_s: float) -> None:
        phases = self._metrics.phases
        phases.queue.observe(queue_s)
        phases.copy_in.observe(copy_in_s)
        phases.kernel.observe(kernel_s)
        phases.copy_out.observe(copy_out_s)

    @override
    def failed(self, error: AclError | WrongGradient) -> None:
        fault = "wrong_gradient" if isinstance(error, WrongGradient) else error.fault.value
        self._metrics.device_fault(fault)
        self._log.error("device_fault", fault=fault, message=str(error))

    @override
    def climbed(self, rung: Rung) -> None:
        self._metrics.device_climbed(rung.name.lower())

    @override
    def repaired(self, rung: Rung, seconds: float) -> None:
        self._metrics.device_repaired(rung.name.lower(), seconds)
        self._log.warning("device_repaired", rung=rung.name.lower(), seconds=round(seconds, 6))

    @override
    def unavailable(self, pause_s: float) -> None:
        self._metrics.device_available.set(0)
        if pause_s:
            self._metrics.device_circuit_open.set(1)
            self._log.error("device_paused", seconds=pause_s)
        self._tell(lambda: self._on_available(False))

    @override
    def available(self) -> None:
        self._metrics.device_available.set(1)
        self._metrics.device_circuit_open.set(0)
        self._tell(lambda: self._on_available(True))

    @override
    def lost(self, error: StartError) -> None:
        self._metrics.device_available.set(0)
        self._log.error("device_lost", message=str(error), exit_code=int(error.exit_code))
        self._tell(lambda: self._on_lost(error))

    def _tell(self, call: Callable[[], None]) -> None:
        # A device thread that hung may return after the event loop has closed; the event is then dropped.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)
