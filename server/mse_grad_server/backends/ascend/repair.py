"""Repairs the device in the device thread: climbs the ladder until a rung holds."""

from __future__ import annotations

import time
from collections import deque

from mse_grad_server.backends.ascend.acl import Acl
from mse_grad_server.backends.ascend.device import Device
from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.inbox import Inbox
from mse_grad_server.backends.ascend.jobs import Job, Outcome
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.ascend.pipeline import Pipeline
from mse_grad_server.backends.ascend.recovery import Ladder, Rung
from mse_grad_server.backends.ascend.selfcheck import WrongGradient, check_gradients, one_kind_a_dtype
from mse_grad_server.backends.ascend.slots import SlotPool
from mse_grad_server.backends.ascend.start_errors import DeviceLost
from mse_grad_server.backends.ascend.watch import Watch
from mse_grad_server.errors import DeviceUnavailable

__all__ = ["SLOTS_BACK_S", "Repair"]

SLOTS_BACK_S = 30.0
"""How long to wait for slots: callers hold one that is not under way for the milliseconds of a copy."""


class Repair:
    """Brings a device back, or says that it is lost. Used by the device thread alone."""

    def __init__(
        self,
        acl: Acl,
        device: Device,
        pool: SlotPool,
        inbox: Inbox,
        observer: Observer,
        *,
        drain_timeout_s: float,
        watch: Watch,
    ) -> None:
        """Takes what it works on.

        Args:
            acl: The libraries.
            device: Open.
            pool: Whose slots are those of the device.
            inbox: Where jobs come from.
            observer: Is told what happens.
            drain_timeout_s: How long streams may take to become empty.
            watch: Is told of each step, which may take long.
        """
        self._acl = acl
        self._device = device
        self._pool = pool
        self._inbox = inbox
        self._observer = observer
        self._drain_timeout_ms = max(1, round(1000 * drain_timeout_s))
        self._watch = watch
        self._ladder = Ladder(time.monotonic)

    def block_came_back(self) -> None:
        """The next fault begins at its first rung again."""
        self._ladder.block_came_back()

    def run(self, error: AclError, pipeline: Pipeline, pending: deque[Job]) -> list[Job]:
        """Repairs what made `error`.

        Args:
            error: What went wrong.
            pipeline: The jobs on the device: they come through, or end as lost.
            pending: Those that are to follow: they stay, or end as lost.

        Returns:
            The jobs that came through.

        Raises:
            DeviceLost: No rung held; slots are shut, and the jobs have not ended.
        """
        began_s = time.monotonic()
        failure: AclError | WrongGradient = error
        while True:
            self._observer.failed(failure)
            rung = self._ladder.climb(failure.fault)
            self._observer.climbed(rung)
            if rung is Rung.END:
                raise DeviceLost(f"the device fails again after every repair: {failure}") from failure
            try:
                computed = self._take(rung, pipeline, pending)
            except (AclError, WrongGradient) as again:
                failure = again
                continue
            self._observer.repaired(rung, time.monotonic() - began_s)
            return computed

    def _take(self, rung: Rung, pipeline: Pipeline, pending: deque[Job]) -> list[Job]:
        if rung is Rung.RETRY:
            return pipeline.drain(self._drain_timeout_ms)
        self._remake(pipeline, pending, reset=rung is Rung.RESET)
        return []

    def _remake(self, pipeline: Pipeline, pending: deque[Job], *, reset: bool) -> None:
        self._observer.unavailable(0.0)
        self._empty(pipeline, pending)
        self._watch.away()
        errors = self._device.close()
        self._watch.away()
        if reset:
            self._device.reset()
            self._watch.away()
        elif errors:
            raise errors[0]
        self._device.open()
        self._watch.away()
        check_gradients(self._acl, self._device, one_kind_a_dtype())
        self._rest()
        self._inbox.open()
        self._pool.open(self._device.slots)
        self._observer.available()

    def _empty(self, pipeline: Pipeline, pending: deque[Job]) -> None:
        """Ends every job as lost and waits until nobody uses the memory of a slot: then it may go."""
        self._pool.shut()
        pipeline.come_to_rest()
        for job in (*pipeline.take_all(), *pending):
            job.end(Outcome.LOST)
        pending.clear()
        self._inbox.turn_back(Outcome.LOST)
        self._watch.idle()
        if not self._pool.all_returned(SLOTS_BACK_S):
            raise DeviceLost(f"a request holds pinned memory for more than {SLOTS_BACK_S:g} s; it cannot be freed")

    def _rest(self) -> None:
        pause_s = self._ladder.pause()
        if not pause_s:
            return
        self._pool.refuse(DeviceUnavailable("the device failed repeatedly and rests", retry_after_s=pause_s))
        self._observer.unavailable(pause_s)
        self._watch.idle()
        self._inbox.rest(pause_s)
        self._watch.away()
        check_gradients(self._acl, self._device, one_kind_a_dtype())
