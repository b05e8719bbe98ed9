"""Transfer of gradients, block by block, from the caller's arrays through the device and back.

Runs in the caller's thread.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from mse_grad_server.backends.ascend.device.blocks import LaunchKey, cut
from mse_grad_server.backends.ascend.device.jobs import Job, Outcome, Stages
from mse_grad_server.backends.ascend.device_thread import DeviceThread
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.base import Failure, Gradient
from mse_grad_server.backends.progress import Phase, late, unwanted
from mse_grad_server.errors import BackendError, DeviceUnavailable
from mse_grad_server.process.timeline import Timeline

__all__ = ["transfer"]

# How often a block is sent at most. A repair of the device takes its slot away, so it is sent again once; a block under
# which the device fails twice may be the cause.
_MAX_SENDS = 2
# How long a caller waits before it checks that the device thread is alive.
_CHECK_S = 1.0


class _Block(NamedTuple):
    gradient: int  # index
    start: int  # element
    key: LaunchKey
    sends: int  # so far


class _Sent(NamedTuple):
    block: _Block
    job: Job
    asked_s: float  # when the caller asked for a slot
    acquired_s: float  # when it got one
    sent_s: float


def transfer(
    thread: DeviceThread, gradients: Sequence[Gradient], *, block_bytes: int, observer: Observer
) -> Failure | None:
    """Computes the gradients block by block, as many at a time as there are slots.

    Args:
        thread: Runs the blocks.
        gradients: The gradients to compute.
        block_bytes: Most bytes of an operand in a block.
        observer: Receives the times that each sampled block spent in each stage.

    Returns:
        None; or the index of the first gradient that failed, and its error. The gradients behind it may not have been
        computed. The error is DeadlineExceeded or Cancelled (nobody waits for it any longer, which is asked before each
        step of a block), DeviceUnavailable (the device is paused, is lost, or failed twice under a block), or the error
        with which a block ended.
    """
    waiting = deque(
        _Block(index, start, key, 0)
        for index, gradient in enumerate(gradients)
        for start, key in cut(gradient.spec, gradient.predict.size, block_bytes)
    )
    sent: deque[_Sent] = deque()
    index = 0
    try:
        while waiting or sent:
            index = (sent[0].block if sent else waiting[0]).gradient
            # A caller with a block in flight waits for that block, never for a slot, which others may hold for longer.
            if waiting and _send(thread, gradients, waiting, sent, may_wait=not sent):
                continue
            if sent:
                job = sent[0].job
                phase = Phase.KERNEL if job.is_launched else Phase.COPY_IN
                outcome = job.wait(_wait_s(gradients[index], phase))
                if outcome is not None:
                    _receive(sent.popleft(), outcome, gradients[index], waiting, observer)
                    continue
            thread.require_answer()
    except Exception as error:  # noqa: BLE001 - an error ends only this gradient, not its neighbours
        return index, error
    finally:
        for one in sent:
            one.job.abandon()
    return None


def _send(
    thread: DeviceThread,
    gradients: Sequence[Gradient],
    waiting: deque[_Block],
    sent: deque[_Sent],
    *,
    may_wait: bool,
) -> bool:
    block = waiting[0]
    gradient = gradients[block.gradient]
    asked_s = time.monotonic()
    slot = thread.pool.acquire(_wait_s(gradient, Phase.QUEUED) if may_wait else 0.0)
    if slot is None:
        return False
    acquired_s = time.monotonic()
    job = Job(block.key, slot, thread.pool)
    elements = slice(block.start, block.start + block.key.elements)
    dout = gradient.dout if gradient.spec.scalar_dout else gradient.dout[elements]
    try:
        _wait_s(gradient, Phase.COPY_IN)
        slot.fill(job.layout, gradient.predict[elements], gradient.label[elements], dout)
        _wait_s(gradient, Phase.COPY_IN)
    except BaseException:
        thread.pool.release(slot)
        raise
    sent.append(_Sent(waiting.popleft(), job, asked_s, acquired_s, time.monotonic()))
    thread.submit(job)
    return True


def _receive(sent: _Sent, outcome: Outcome, gradient: Gradient, waiting: deque[_Block], observer: Observer) -> None:
    block, job = sent.block, sent.job
    try:
        if outcome is Outcome.COMPUTED:
            _wait_s(gradient, Phase.COPY_OUT)
            received_s = time.monotonic()
            job.slot.read(job.layout, gradient.y[block.start : block.start + block.key.elements])
            if job.is_sampled:
                _tell(sent, received_s, observer)
            if gradient.timeline is not None:
                _trace(sent, gradient.timeline)
            return
    finally:
        job.release()
    if outcome is Outcome.FAILED:
        raise job.error or BackendError("a block failed without giving a reason")
    if block.sends + 1 == _MAX_SENDS:
        raise DeviceUnavailable("the device failed on this gradient, and again when it was repeated")
    waiting.appendleft(block._replace(sends=block.sends + 1))


def _tell(sent: _Sent, received_s: float, observer: Observer) -> None:
    """Reports the stages of a block. Time that the device does not account for counts as waiting in the queue."""
    away_s = sent.job.ended_s - sent.sent_s
    stages = sent.job.stages or Stages(copy_in_s=0.0, kernel_s=away_s, copy_out_s=0.0)
    observer.block_timed(
        queue_s=sent.acquired_s - sent.asked_s + max(0.0, away_s - sum(stages)),
        copy_in_s=sent.sent_s - sent.acquired_s + stages.copy_in_s,
        kernel_s=stages.kernel_s,
        copy_out_s=stages.copy_out_s + time.monotonic() - received_s,
    )


def _trace(sent: _Sent, timeline: Timeline) -> None:
    """Adds the phases of a block, which hold the device's own times as far as it keeps them."""
    ended_s = sent.job.ended_s
    stages = sent.job.stages or Stages(copy_in_s=0.0, kernel_s=ended_s - sent.sent_s, copy_out_s=0.0)
    computed_s = ended_s - stages.copy_out_s
    timeline.add("queue", sent.asked_s, sent.acquired_s)
    timeline.add("copy-in", sent.acquired_s, sent.sent_s + stages.copy_in_s)
    timeline.add("kernel", computed_s - stages.kernel_s, computed_s)
    timeline.add("copy-out", computed_s, time.monotonic())


def _wait_s(gradient: Gradient, phase: Phase) -> float:
    """Returns how long to wait in this phase; raises DeadlineExceeded or Cancelled if nobody waits any longer."""
    if gradient.progress is not None:
        gradient.progress.phase = phase
        if not gradient.progress.is_open:
            raise unwanted()
    if gradient.deadline_s == math.inf:
        return _CHECK_S
    left_s = gradient.deadline_s - time.monotonic()
    if left_s <= 0:
        raise late(phase)
    return min(_CHECK_S, left_s)
