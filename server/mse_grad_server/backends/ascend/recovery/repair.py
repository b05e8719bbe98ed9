"""Repair of a failed device in the device thread, rung by rung of the ladder."""

from __future__ import annotations

import time
from collections import deque

from mse_grad_server.backends.ascend.acl.error_codes import AclError, WrongGradient
from mse_grad_server.backends.ascend.acl.runtime import Acl
from mse_grad_server.backends.ascend.device.device import Device
from mse_grad_server.backends.ascend.device.jobs import Inbox, Job, Outcome
from mse_grad_server.backends.ascend.device.pipeline import Pipeline
from mse_grad_server.backends.ascend.device.slots import SlotPool
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.ascend.recovery.ladder import Ladder, Rung
from mse_grad_server.backends.ascend.recovery.self_check import check_gradients, one_kind_per_dtype
from mse_grad_server.backends.ascend.recovery.watchdog import Watchdog
from mse_grad_server.backends.ascend.startup.errors import DeviceLost
from mse_grad_server.errors import DeviceUnavailable

__all__ = ["SLOTS_BACK_S", "Repair"]

SLOTS_BACK_S = 30.0
"""How long to wait for all slots to return. A slot that is not in flight is held by a caller that copies, which takes
milliseconds."""


class Repair:
    """Repairs a device, or reports it lost. Only the device thread uses it.

    Args:
        acl: The libraries.
        device: The device, open.
        pool: The pool that lends the slots of the device.
        inbox: The queue that submitted jobs arrive in.
        observer: Receives every event.
        drain_timeout_s: How long a stream may take to become empty.
        watchdog: Armed before each step that may take long.
    """

    def __init__(
        self,
        acl: Acl,
        device: Device,
        pool: SlotPool,
        inbox: Inbox,
        observer: Observer,
        *,
        drain_timeout_s: float,
        watchdog: Watchdog,
    ) -> None:
        self._acl = acl
        self._device = device
        self._pool = pool
        self._inbox = inbox
        self._observer = observer
        self._drain_timeout_ms = max(1, round(1000 * drain_timeout_s))
        self._watchdog = watchdog
        self._ladder = Ladder(time.monotonic)

    def block_came_back(self) -> None:
        """Resets the ladder: the next fault begins at its first rung again."""
        self._ladder.block_came_back()

    def run(self, error: AclError | WrongGradient, pipeline: Pipeline, pending: deque[Job]) -> list[Job]:
        """Repairs the device after `error`.

        Args:
            error: The fault.
            pipeline: The jobs on the device. A retry completes them; a higher rung ends them as lost.
            pending: The jobs after them. A retry keeps them; a higher rung ends them as lost.

        Returns:
            The jobs that were computed.

        Raises:
            DeviceLost: The ladder reached its last rung, or a request still holds pinned memory. Jobs may remain, and
                the pool may be open; the caller ends both.
        """
        began_s = time.monotonic()
        failure: AclError | WrongGradient = error
        while True:
            self._observer.failed(failure)
            rung = self._ladder.climb(failure.fault)
            self._observer.climbed(rung)
            if rung is Rung.END:
                raise DeviceLost(f"the device failed again after every repair: {failure}") from failure
            try:
                computed = self._run_rung(rung, pipeline, pending)
            except (AclError, WrongGradient) as again:
                failure = again
                continue
            self._observer.repaired(rung, time.monotonic() - began_s)
            return computed

    def _run_rung(self, rung: Rung, pipeline: Pipeline, pending: deque[Job]) -> list[Job]:
        if rung is Rung.RETRY:
            return pipeline.drain(self._drain_timeout_ms)
        self._remake(pipeline, pending, reset=rung is Rung.RESET)
        return []

    def _remake(self, pipeline: Pipeline, pending: deque[Job], *, reset: bool) -> None:
        self._observer.unavailable(0.0)
        self._empty(pipeline, pending)
        self._watchdog.arm()
        errors = self._device.close()
        self._watchdog.arm()
        if reset:
            self._device.reset()
            self._watchdog.arm()
        elif errors:
            raise errors[0]
        self._device.open()
        self._watchdog.arm()
        check_gradients(self._acl, self._device, one_kind_per_dtype())
        self._pause()
        self._inbox.open()
        self._pool.open(self._device.slots)
        self._observer.available()

    def _empty(self, pipeline: Pipeline, pending: deque[Job]) -> None:
        """Ends every job as lost and waits until no thread uses the memory of a slot, so that it can be freed."""
        self._pool.shut()
        pipeline.come_to_rest()
        for job in (*pipeline.pop_all(), *pending):
            job.end(Outcome.LOST)
        pending.clear()
        self._inbox.reject(Outcome.LOST)
        self._watchdog.disarm()
        if not self._pool.all_returned(SLOTS_BACK_S):
            raise DeviceLost(
                f"a request has held pinned memory for more than {SLOTS_BACK_S:g} s, so that memory cannot be freed"
            )

    def _pause(self) -> None:
        pause_s = self._ladder.pause()
        if not pause_s:
            return
        self._pool.refuse(DeviceUnavailable("the device failed repeatedly and is paused", retry_after_s=pause_s))
        self._observer.unavailable(pause_s)
        self._watchdog.disarm()
        self._inbox.sleep(pause_s)
        self._watchdog.arm()
        check_gradients(self._acl, self._device, one_kind_per_dtype())
