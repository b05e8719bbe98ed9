"""The way of gradients from the caller's arrays through the device and back, in the caller's thread."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from mse_grad_server.backends.ascend.blocks import LaunchKey, cut
from mse_grad_server.backends.ascend.device_thread import DeviceThread
from mse_grad_server.backends.ascend.jobs import Job, Outcome, Stages
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.base import Failure, Gradient
from mse_grad_server.errors import BackendError, DeadlineExceeded, DeviceUnavailable

__all__ = ["transfer"]

# How often a block is sent at most: a repair in between takes its slot away. A block that the device failed under twice
# may be what it fails on.
_SENDINGS = 2
# How long a wait goes on until the thread of the device is looked at.
_LOOK_S = 1.0


class _Block(NamedTuple):
    gradient: int  # its index
    start: int
    key: LaunchKey
    sendings: int


class _Sent(NamedTuple):
    block: _Block
    job: Job
    asked_s: float  # for a slot
    taken_s: float
    sent_s: float


def transfer(
    thread: DeviceThread, gradients: Sequence[Gradient], *, block_bytes: int, observer: Observer
) -> Failure | None:
    """Computes the gradients block by block, as many at a time as there are slots.

    Args:
        thread: Runs the blocks.
        gradients: What to compute; see `Backend.compute`.
        block_bytes: Most bytes of an operand in a block.
        observer: Is told how long each block that came back was where.

    Returns:
        None, or the first gradient that failed, by its index, and why; those behind it may not be computed then. Why:
        DeadlineExceeded, DeviceUnavailable (the device rests, is lost, or failed under a block twice), or what else a
        block ended with.
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
            # Who has a block under way waits for that one and not for a slot, which another may keep for as long.
            if waiting and _send(thread, gradients, waiting, sent, may_wait=not sent):
                continue
            if sent:
                outcome = sent[0].job.wait(_wait_s(gradients[index]))
                if outcome is not None:
                    _receive(sent.popleft(), outcome, gradients[index], waiting, observer)
                    continue
            thread.require_answer()
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends this gradient and not its neighbours
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
    slot = thread.pool.take(_wait_s(gradient) if may_wait else 0.0)
    if slot is None:
        return False
    taken_s = time.monotonic()
    job = Job(block.key, slot, thread.pool)
    part = slice(block.start, block.start + block.key.elements)
    dout = gradient.dout if gradient.spec.scalar_dout else gradient.dout[part]
    try:
        slot.fill(job.layout, gradient.predict[part], gradient.label[part], dout)
    except BaseException:
        thread.pool.give_back(slot)
        raise
    sent.append(_Sent(waiting.popleft(), job, asked_s, taken_s, time.monotonic()))
    thread.submit(job)
    return True


def _receive(sent: _Sent, outcome: Outcome, gradient: Gradient, waiting: deque[_Block], observer: Observer) -> None:
    block, job = sent.block, sent.job
    try:
        if outcome is Outcome.COMPUTED:
            received_s = time.monotonic()
            job.slot.read(job.layout, gradient.y[block.start : block.start + block.key.elements])
            _tell(sent, received_s, observer)
            return
    finally:
        job.release()
    if outcome is Outcome.FAILED:
        raise job.error or BackendError("a block failed and does not say why")
    if block.sendings + 1 == _SENDINGS:
        raise DeviceUnavailable("the device failed under this gradient and its repetition")
    waiting.appendleft(block._replace(sendings=block.sendings + 1))


def _tell(sent: _Sent, received_s: float, observer: Observer) -> None:
    """Says where the block was. What the device does not account for is time in which the block waited for its turn."""
    away_s = sent.job.ended_s - sent.sent_s
    stages = sent.job.stages or Stages(copy_in_s=0.0, kernel_s=away_s, copy_out_s=0.0)
    observer.travelled(
        queue_s=sent.taken_s - sent.asked_s + max(0.0, away_s - sum(stages)),
        copy_in_s=sent.sent_s - sent.taken_s + stages.copy_in_s,
        kernel_s=stages.kernel_s,
        copy_out_s=stages.copy_out_s + time.monotonic() - received_s,
    )


def _wait_s(gradient: Gradient) -> float:
    if gradient.deadline_s == math.inf:
        return _LOOK_S
    left_s = gradient.deadline_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("the time that the caller gave ran out before the gradient was computed")
    return min(_LOOK_S, left_s)
