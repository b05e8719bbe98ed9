"""The device thread: ACL binds a context to a thread, so this one makes every call from aclInit to aclFinalize."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from concurrent.futures import Future

from mse_grad_server.backends.ascend.acl.error_codes import (
    STREAM_SYNC_TIMEOUT,
    AclError,
    Fault,
    PlanError,
    WrongGradient,
)
from mse_grad_server.backends.ascend.acl.runtime import Acl
from mse_grad_server.backends.ascend.device.device import Device
from mse_grad_server.backends.ascend.device.jobs import Inbox, Job, Outcome
from mse_grad_server.backends.ascend.device.pipeline import Pipeline
from mse_grad_server.backends.ascend.device.slots import SlotPool
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.ascend.recovery.repair import SLOTS_BACK_S, Repair
from mse_grad_server.backends.ascend.recovery.self_check import check_gradients, every_kind, subnormal_dtypes
from mse_grad_server.backends.ascend.recovery.watchdog import Watchdog
from mse_grad_server.backends.ascend.startup.diagnosis import require_device
from mse_grad_server.backends.ascend.startup.errors import DeviceHung, DeviceLost
from mse_grad_server.backends.edges import OverflowMode
from mse_grad_server.errors import BackendError, DeviceUnavailable, ServerBusy

__all__ = ["DeviceThread"]

# The thread checks the streams for faults if a block takes longer than this, then after twice as long, and so on.
_FIRST_FAULT_CHECK_S = 0.05
# Poll interval, as a fraction of the time already waited for the oldest block. It grows with the wait, so it adds at
# most 1/8 latency and polls O(log t) times.
_POLL_FRACTION = 1 / 8
_SHORTEST_POLL_S = 20e-6
# A job fails for good after this many failures in its slot.
_ATTEMPTS = 3
# More failed plans than this, with no success between them, are the fault of the device and not of the requests.
_FAILED_PLANS = 5
_MEMORY_QUERY_S = 15.0
_HANGS = "a call to the device does not return; the server is shutting down"


class DeviceThread:
    """Runs submitted jobs until it is stopped, and repairs the device under them.

    Submitting is thread-safe.

    Args:
        acl: The libraries.
        device: The device, closed.
        observer: Receives every event.
        block_timeout_s: How long a block may take before its stream counts as stuck.
        hang_s: How long a call of ACL may take before the thread counts as lost.

    Attributes:
        pool: The slots to fill.
        soc_name: Name of the chip; known after `start`.
        overflow_mode: Overflow mode of its streams; known after `start`.
    """

    def __init__(self, acl: Acl, device: Device, observer: Observer, *, block_timeout_s: float, hang_s: float) -> None:
        self.pool = SlotPool()
        self.soc_name = ""
        self.overflow_mode = OverflowMode.UNKNOWN
        self._acl = acl
        self._device = device
        self._observer = observer
        self._block_timeout_s = block_timeout_s
        self._watchdog = Watchdog(hang_s)
        self._inbox = Inbox()
        self._pending: deque[Job] = deque()  # from the inbox, not queued on the device yet
        self._pipeline = Pipeline(acl, device)
        self._repair = Repair(
            acl, device, self.pool, self._inbox, observer, drain_timeout_s=block_timeout_s, watchdog=self._watchdog
        )
        self._failed_plans = 0
        self._memory_query_at_s = math.inf  # never, if the first query failed
        # Start of the wait for the oldest block, and the length of the wait after which streams are checked for faults.
        self._waiting_since_s = 0.0
        self._fault_check_after_s = _FIRST_FAULT_CHECK_S
        self._is_hung = threading.Event()
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="ascend-device", daemon=True)

    def start(self) -> None:
        """Opens the device and checks its gradients. If it raises, the thread has ended, unless a call hangs.

        Raises:
            AclError: A call failed.
            WrongGradient: The device computes wrong gradients.
            NoDevice: There is no device of this number.
            DeviceHung: A call does not return.
        """
        self._thread.start()
        try:
            self._opened.result(timeout=self._watchdog.limit_s)
        except TimeoutError as cause:
            self._inbox.close()  # so that the thread ends if the call returns after all
            raise self._hung() from cause

    def submit(self, job: Job) -> None:
        """Enqueues a job, whose slot then belongs to this thread."""
        self._inbox.put(job)

    def stop(self) -> None:
        """Ends the thread after its jobs, which closes the device; waits for it, unless a call hangs."""
        self._inbox.close()
        while self._thread.is_alive() and not self._is_hung.is_set():
            self._thread.join(timeout=min(1.0, self._watchdog.limit_s))
            self.check_watchdog()

    def require_answer(self) -> None:
        """Raises DeviceUnavailable if a call of the thread hangs; for threads that wait for a job or a slot."""
        self.check_watchdog()
        if self._is_hung.is_set():
            raise DeviceUnavailable(_HANGS)

    def check_watchdog(self) -> None:
        """Tells the observer, once, if a call of the thread hangs; any thread may call it."""
        if self._is_hung.is_set() or not self._watchdog.is_overdue():
            return
        self._is_hung.set()
        self.pool.refuse(DeviceUnavailable(_HANGS))
        self._observer.lost(self._hung())

    def _hung(self) -> DeviceHung:
        limit = f"{self._watchdog.limit_s:g} s"
        return DeviceHung(
            f"a call to the device did not return within {limit}: see whether npu-smi info answers; only another "
            "process can take the device again"
        )

    # The methods below run in the device thread.

    def _main(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # noqa: BLE001 - passed on: `start` re-raises it
            self._close_device()
            self._opened.set_exception(error)
            return
        self.pool.open(self._device.slots)
        self._opened.set_result(None)
        try:
            self._serve()
            self._end_all(DeviceUnavailable("the server is shutting down"))
        except Exception as error:  # noqa: BLE001 - it ends the process
            self._end_all(DeviceUnavailable("the device is lost; the server is shutting down"))
            lost = error if isinstance(error, DeviceLost) else DeviceLost(f"the device thread failed: {error!r}")
            self._observer.lost(lost)
        self._watchdog.disarm()
        if self.pool.all_returned(SLOTS_BACK_S):
            self._close_device()

    def _begin(self) -> None:
        self._watchdog.arm()
        began_s = time.monotonic()
        self._acl.initialise()
        require_device(self._device.options.number, self._acl.device_count())
        self._device.open()
        self.soc_name = self._acl.soc_name()
        self.overflow_mode = self._acl.overflow_mode()
        opened_s = time.monotonic()
        self._observer.started("device", opened_s - began_s)
        check_gradients(self._acl, self._device, every_kind())
        self._device.subnormal_dtypes = subnormal_dtypes(self._acl, self._device)
        self._observer.started("self_check", time.monotonic() - opened_s)
        self._report_held_memory()
        try:
            self._query_memory()
        except AclError as error:  # the device computes correctly, so missing figures must not stop the start
            self._observer.failed(error)

    def _serve(self) -> None:
        while self._pipeline or self._pending or not self._inbox.is_closing:
            self._watchdog.arm()
            try:
                self._collect_computed()
                self._receive_jobs()
                self._queue_pending()
                self._wait_for_room()
                if time.monotonic() >= self._memory_query_at_s:
                    self._query_memory()
            except (AclError, WrongGradient) as error:
                self._computed(self._repair.run(error, self._pipeline, self._pending))
                self._wait_begins()

    def _collect_computed(self) -> None:
        while (job := self._pipeline.pop_computed()) is not None:
            self._computed([job])
            self._wait_begins()
        if self._pipeline and self._waited_s > self._fault_check_after_s:
            self._check_for_faults()

    def _receive_jobs(self) -> None:
        if self._pending or self._pipeline.is_full:
            return
        self._watchdog.disarm()
        timeout_s = max(_SHORTEST_POLL_S, self._waited_s * _POLL_FRACTION) if self._pipeline else _MEMORY_QUERY_S
        self._pending.extend(job for job in self._inbox.get(timeout_s) if not job.dropped())
        self._watchdog.arm()

    def _queue_pending(self) -> None:
        if not self._pipeline:
            self._wait_begins()
        while self._pending:
            job = self._pending[0]
            try:
                if self._pipeline.queue(job):
                    self._observer.planned()
                    self._report_held_memory()
                else:
                    self._observer.reused()
            except PlanError as error:
                self._plan_failed(job, error)
                continue
            except AclError:
                self._count_attempt(job, DeviceUnavailable("the device failed on this gradient more than once"))
                raise
            self._pending.popleft()

    def _report_held_memory(self) -> None:
        self._observer.holds(device_bytes=self._device.memory_bytes, pinned_bytes=self._device.pinned_bytes)

    def _query_memory(self) -> None:
        free_bytes, total_bytes = self._acl.memory_info()
        self._observer.memory_measured(free_bytes=free_bytes, total_bytes=total_bytes)
        self._memory_query_at_s = time.monotonic() + _MEMORY_QUERY_S

    def _wait_for_room(self) -> None:
        # While every slot is in flight no new job can arrive, so this thread may block inside ACL, which wakes it
        # without polling.
        if self._pipeline.is_full:
            self._pipeline.wait_for_oldest(round(1000 * _FIRST_FAULT_CHECK_S))

    def _check_for_faults(self) -> None:
        self._pipeline.check_for_faults()
        self._fault_check_after_s *= 2
        if self._waited_s > self._block_timeout_s:
            raise AclError("the wait for a block", STREAM_SYNC_TIMEOUT, f"not finished after {self._waited_s:.1f} s")

    @property
    def _waited_s(self) -> float:
        return time.monotonic() - self._waiting_since_s

    def _wait_begins(self) -> None:
        self._waiting_since_s = time.monotonic()
        self._fault_check_after_s = _FIRST_FAULT_CHECK_S

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
            self._count_attempt(job, DeviceUnavailable("no kernel launch could be planned for the device"))
            raise error
        self._observer.failed(error)
        if error.fault is Fault.MEMORY:
            self._pipeline.free_idle_executors()
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
        for job in (*self._pipeline.pop_all(), *self._pending):
            job.end(Outcome.FAILED, error)
        self._pending.clear()
        self._inbox.reject(Outcome.FAILED, error)

    def _close_device(self) -> None:
        self._watchdog.arm()
        errors: list[AclError] = self._device.close()
        for undo in (self._device.reset, self._acl.finalise):
            self._watchdog.arm()
            try:
                undo()
            except AclError as error:
                errors.append(error)
        for failure in errors:
            self._observer.failed(failure)
        self._watchdog.disarm()
