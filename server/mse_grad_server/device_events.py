"""What happens to an NPU, in the metrics, in the log, and in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.recovery import Rung
from mse_grad_server.backends.ascend.selfcheck import WrongGradient
from mse_grad_server.exits import StartError
from mse_grad_server.metrics import Metrics

__all__ = ["DeviceEvents"]


class DeviceEvents:
    """The observer of the backend ascend; made in the event loop, told from any thread."""

    def __init__(
        self,
        metrics: Metrics,
        log: FilteringBoundLogger,
        *,
        on_available: Callable[[bool], None],
        on_lost: Callable[[StartError], None],
    ) -> None:
        """Takes whom to tell.

        Args:
            metrics: Counts.
            log: Has a line for each failure and repair.
            on_available: Called in the event loop when the device stops taking gradients (False), and takes them again.
            on_lost: Called in the event loop when no repair helps.
        """
        self._metrics = metrics
        self._log = log
        self._on_available = on_available
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()

    def opened(self, facts: Mapping[str, str]) -> None:
        """See Observer."""
        self._metrics.device_found(soc=facts["soc"], cann=facts["cann_version"])
        self._metrics.device_available.set(1)
        self._log.info("device_opened", **facts)

    def started(self, step: str, seconds: float) -> None:
        """See Observer."""
        self._metrics.started(step, seconds)

    def holds(self, *, device_bytes: int, pinned_bytes: int) -> None:
        """See Observer."""
        self._metrics.device_memory_bytes.set(device_bytes)
        self._metrics.device_pinned_bytes.set(pinned_bytes)

    def has_left(self, *, free_bytes: int, total_bytes: int) -> None:
        """See Observer."""
        self._metrics.device_free_bytes.set(free_bytes)
        self._metrics.device_total_bytes.set(total_bytes)

    def computed(self, blocks: int) -> None:
        """See Observer."""
        self._metrics.device_blocks.inc(blocks)

    def planned(self) -> None:
        """See Observer."""
        self._metrics.device_plans.inc()

    def reused(self) -> None:
        """See Observer."""
        self._metrics.device_plan_hits.inc()

    def travelled(self, *, queue_s: float, copy_in_s: float, kernel_s: float, copy_out_s: float) -> None:
        """See Observer."""
        phases = self._metrics.phases
        phases.queue.observe(queue_s)
        phases.copy_in.observe(copy_in_s)
        phases.kernel.observe(kernel_s)
        phases.copy_out.observe(copy_out_s)

    def failed(self, error: AclError | WrongGradient) -> None:
        """See Observer."""
        fault = "wrong_gradient" if isinstance(error, WrongGradient) else error.fault.value
        self._metrics.device_fault(fault)
        self._log.error("device_fault", fault=fault, message=str(error))

    def climbed(self, rung: Rung) -> None:
        """See Observer."""
        self._metrics.device_climbed(rung.name.lower())

    def repaired(self, rung: Rung, seconds: float) -> None:
        """See Observer."""
        self._metrics.device_repaired(rung.name.lower(), seconds)
        self._log.warning("device_repaired", rung=rung.name.lower(), seconds=round(seconds, 6))

    def unavailable(self, pause_s: float) -> None:
        """See Observer."""
        self._metrics.device_available.set(0)
        if pause_s:
            self._metrics.device_circuit_open.set(1)
            self._log.error("device_rests", seconds=pause_s)
        self._tell(lambda: self._on_available(False))

    def available(self) -> None:
        """See Observer."""
        self._metrics.device_available.set(1)
        self._metrics.device_circuit_open.set(0)
        self._tell(lambda: self._on_available(True))

    def lost(self, error: StartError) -> None:
        """See Observer."""
        self._metrics.device_available.set(0)
        self._log.error("device_lost", message=str(error), exit_code=int(error.exit_code))
        self._tell(lambda: self._on_lost(error))

    def _tell(self, call: Callable[[], None]) -> None:
        # A thread that hung may come back after the loop has ended: then nobody is left to be told.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)
