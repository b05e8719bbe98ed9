"""The one thread that calls ACL: ACL binds a context to a thread, so all from aclInit to aclFinalize happens here."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from mse_grad_server.backends.ascend.acl import Acl
from mse_grad_server.backends.ascend.device import Device
from mse_grad_server.backends.ascend.faults import STREAM_SYNC_TIMEOUT, AclError, Fault, PlanError
from mse_grad_server.backends.ascend.inbox import Inbox
from mse_grad_server.backends.ascend.jobs import Job, Outcome
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.ascend.pipeline import Pipeline
from mse_grad_server.backends.ascend.repair import SLOTS_BACK_S, Repair
from mse_grad_server.backends.ascend.selfcheck import check_gradients, every_kind
from mse_grad_server.backends.ascend.slots import SlotPool
from mse_grad_server.backends.ascend.start_errors import DeviceHung, DeviceLost
from mse_grad_server.backends.ascend.starting import require_device
from mse_grad_server.backends.ascend.watch import Watch
from mse_grad_server.errors import BackendError, DeviceUnavailable, ServerBusy

__all__ = ["DeviceThread"]

# A block that is not through after this long makes the thread look for faults, then after twice as long, and so on.
_FIRST_LOOK_S = 0.05
# The thread sleeps between two looks at the oldest block for this share of the time that it has waited for it already:
# so the delay stays small beside the wait, and the looks few.
_SHARE_OF_WAIT = 1 / 8
_SHORTEST_SLEEP_S = 20e-6
# A job may meet so many failures in the slot that it is in.
_ATTEMPTS = 3
# So many plans that fail with none that succeeds are the fault of the device and not of the requests.
_FAILED_PLANS = 5
_MEMORY_LOOK_S = 15.0
_HANGS = "a call to the device does not return; the server ends"


class DeviceThread:
    """Runs the jobs that are submitted until it is stopped, and repairs the device under them.

    Any number of threads may submit.

    Attributes:
        pool: The slots to fill.
        soc_name: Name of the chip; known once it has started.
    """

    def __init__(self, acl: Acl, device: Device, observer: Observer, *, block_timeout_s: float, hang_s: float) -> None:
        """Takes what it drives.

        Args:
            acl: The libraries.
            device: Closed.
            observer: Is told what happens.
            block_timeout_s: How long a block may take before its stream counts as stuck.
            hang_s: How long a call of ACL may take before the thread counts as lost.
        """
        self.pool = SlotPool()
        self.soc_name = ""
        self._acl = acl
        self._device = device
        self._observer = observer
        self._block_timeout_s = block_timeout_s
        self._watch = Watch(hang_s)
        self._inbox = Inbox()
        self._pending: deque[Job] = deque()  # taken from the inbox, not queued yet
        self._pipeline = Pipeline(acl, device)
        self._repair = Repair(
            acl, device, self.pool, self._inbox, observer, drain_timeout_s=block_timeout_s, watch=self._watch
        )
        self._failed_plans = 0
        # When the memory of the device is asked for next; never where it does not say.
        self._memory_look_s = math.inf
        # Since when the oldest block is waited for, and after how long faults are looked for.
        self._waiting_since_s = 0.0
        self._look_after_s = _FIRST_LOOK_S
        self._is_hung = threading.Event()
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="ascend-device", daemon=True)

    def start(self) -> None:
        """Takes the device and checks its gradients; where it cannot, the thread has ended.

        Raises:
            AclError: A call failed.
            WrongGradient: The device computes wrong.
            NoDevice: There is none of that number.
            DeviceHung: A call does not return.
        """
        self._thread.start()
        try:
            self._opened.result(timeout=self._watch.limit_s)
        except FutureTimeout as cause:
            self._inbox.close()  # so that the thread ends where the call returns after all
            raise self._hung() from cause

    def submit(self, job: Job) -> None:
        """Hands over a job, and its slot with it."""
        self._inbox.put(job)

    def stop(self) -> None:
        """Ends the thread once its jobs are through, which gives the device back; waits for it, unless it hangs."""
        self._inbox.close()
        while self._thread.is_alive() and not self._is_hung.is_set():
            self._thread.join(timeout=min(1.0, self._watch.limit_s))
            self.look()

    def require_answer(self) -> None:
        """Raises DeviceUnavailable where the thread does not come back from a call; for those who wait for it."""
        self.look()
        if self._is_hung.is_set():
            raise DeviceUnavailable(_HANGS)

    def look(self) -> None:
        """Notices where the thread does not come back from a call, and tells the observer once; for anyone."""
        if self._is_hung.is_set() or not self._watch.is_overdue():
            return
        self._is_hung.set()
        self.pool.refuse(DeviceUnavailable(_HANGS))
        self._observer.lost(self._hung())

    def _hung(self) -> DeviceHung:
        return DeviceHung(
            f"a call to the device did not return within {self._watch.limit_s:g} s: see whether npu-smi info answers; "
            "only another process can take the device again"
        )

    # What follows runs in the thread.

    def _main(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # noqa: BLE001 - `start` raises it
            self._give_back()
            self._opened.set_exception(error)
            return
        self.pool.open(self._device.slots)
        self._opened.set_result(None)
        try:
            self._serve()
            self._end_all(DeviceUnavailable("the server ends"))
        except Exception as error:  # noqa: BLE001 - it ends the process
            self._end_all(DeviceUnavailable("the device is lost; the server ends"))
            lost = error if isinstance(error, DeviceLost) else DeviceLost(f"the device thread failed: {error!r}")
            self._observer.lost(lost)
        self._watch.idle()
        if self.pool.all_returned(SLOTS_BACK_S):
            self._give_back()

    def _begin(self) -> None:
        self._watch.away()
        began_s = time.monotonic()
        self._acl.initialise()
        require_device(self._device.options.number, self._acl.device_count())
        self._device.open()
        self.soc_name = self._acl.soc_name()
        opened_s = time.monotonic()
        self._observer.started("device", opened_s - began_s)
        check_gradients(self._acl, self._device, every_kind())
        self._observer.started("self_check", time.monotonic() - opened_s)
        self._tell_memory()
        try:
            self._look_at_memory()
        except AclError as error:  # it computes right, and figures alone are no reason to do without it
            self._observer.failed(error)

    def _serve(self) -> None:
        while self._pipeline or self._pending or not self._inbox.is_closing:
            self._watch.away()
            try:
                self._take_off()
                self._take_in()
                self._queue_pending()
                self._wait_for_room()
                if time.monotonic() >= self._memory_look_s:
                    self._look_at_memory()
            except AclError as error:
                self._computed(self._repair.run(error, self._pipeline, self._pending))
                self._wait_begins()

    def _take_off(self) -> None:
        while (job := self._pipeline.take_computed()) is not None:
            self._computed([job])
            self._wait_begins()
        if self._pipeline and self._waited_s > self._look_after_s:
            self._look_for_faults()

    def _take_in(self) -> None:
        if self._pending or self._pipeline.is_full:
            return
        self._watch.idle()
        timeout_s = max(_SHORTEST_SLEEP_S, self._waited_s * _SHARE_OF_WAIT) if self._pipeline else _MEMORY_LOOK_S
        self._pending.extend(self._inbox.take(timeout_s))
        self._watch.away()

    def _queue_pending(self) -> None:
        if not self._pipeline:
            self._wait_begins()
        while self._pending:
            job = self._pending[0]
            try:
                if self._pipeline.queue(job):
                    self._observer.planned()
                    self._tell_memory()
                else:
                    self._observer.reused()
            except PlanError as error:
                self._plan_failed(job, error)
                continue
            except AclError:
                self._count_attempt(job, DeviceUnavailable("the device failed on this gradient more than once"))
                raise
            self._pending.popleft()

    def _tell_memory(self) -> None:
        self._observer.holds(device_bytes=self._device.memory_bytes, pinned_bytes=self._device.pinned_bytes)

    def _look_at_memory(self) -> None:
        free_bytes, total_bytes = self._acl.memory_info()
        self._observer.has_left(free_bytes=free_bytes, total_bytes=total_bytes)
        self._memory_look_s = time.monotonic() + _MEMORY_LOOK_S

    def _wait_for_room(self) -> None:
        # Nothing new can come while every slot is under way, so that a wait inside ACL, which is exact, delays nobody.
        if self._pipeline.is_full:
            self._pipeline.wait_for_oldest(round(1000 * _FIRST_LOOK_S))

    def _look_for_faults(self) -> None:
        self._pipeline.look_for_faults()
        self._look_after_s *= 2
        if self._waited_s > self._block_timeout_s:
            raise AclError("the wait for a block", STREAM_SYNC_TIMEOUT, f"not through after {self._waited_s:.1f} s")

    @property
    def _waited_s(self) -> float:
        return time.monotonic() - self._waiting_since_s

    def _wait_begins(self) -> None:
        self._waiting_since_s = time.monotonic()
        self._look_after_s = _FIRST_LOOK_S

    def _computed(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        self._failed_plans = 0
        self._repair.block_came_back()
        for job in jobs:
            job.end(Outcome.COMPUTED)
        self._observer.computed(len(jobs))

    def _plan_failed(self, job: Job, error: PlanError) -> None:
        self._failed_plans += 1
        if error.fault not in (Fault.CALLER, Fault.MEMORY) or self._failed_plans > _FAILED_PLANS:
            self._count_attempt(job, DeviceUnavailable("the device takes no plan"))
            raise error
        self._observer.failed(error)
        if error.fault is Fault.MEMORY:
            self._pipeline.give_memory_back()
            self._count_attempt(job, ServerBusy("the device has no memory left for this gradient"), most=2)
        else:
            self._count_attempt(job, BackendError(str(error)), most=2)

    def _count_attempt(self, job: Job, error: Exception, *, most: int = _ATTEMPTS) -> None:
        job.attempts += 1
        if job.attempts >= most:
            self._pending.popleft()
            job.end(Outcome.FAILED, error)

    def _end_all(self, error: Exception) -> None:
        self.pool.refuse(DeviceUnavailable(str(error)))
        for job in (*self._pipeline.take_all(), *self._pending):
            job.end(Outcome.FAILED, error)
        self._pending.clear()
        self._inbox.turn_back(Outcome.FAILED, error)

    def _give_back(self) -> None:
        self._watch.away()
        errors: list[AclError] = self._device.close()
        for undo in (self._device.reset, self._acl.finalise):
            self._watch.away()
            try:
                undo()
            except AclError as error:
                errors.append(error)
        for failure in errors:
            self._observer.failed(failure)
        self._watch.idle()
