"""The way of a gradient from the caller's arrays through the device and back, in the caller's thread."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import NamedTuple

from mse_grad.tensor import Array
from mse_grad_server.backends.ascend.blocks import LaunchKey, cut
from mse_grad_server.backends.ascend.device_thread import DeviceThread
from mse_grad_server.backends.ascend.jobs import Job, Outcome
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.errors import BackendError, DeadlineExceeded, DeviceUnavailable

__all__ = ["transfer"]

# How often a block is sent at most: a repair in between takes its slot away. A block that the device failed under twice
# may be what it fails on.
_SENDINGS = 2
# How long a wait goes on until the thread of the device is looked at.
_LOOK_S = 1.0


class _Block(NamedTuple):
    start: int
    key: LaunchKey
    sendings: int


def transfer(
    thread: DeviceThread,
    spec: GradientSpec,
    predict: Array,
    label: Array,
    dout: Array,
    y: Array,
    *,
    block_bytes: int,
    deadline_s: float,
) -> None:
    """Writes the gradient of n elements to `y`, block by block, as many at a time as there are slots.

    Args:
        thread: Runs the blocks.
        spec: What to compute.
        predict: n elements, one dimension, contiguous.
        label: n elements, likewise.
        dout: n elements, or one where `spec.scalar_dout`, likewise.
        y: n elements, likewise.
        block_bytes: Most bytes of an operand in a block.
        deadline_s: When to give up, in the time of `time.monotonic`.

    Raises:
        DeadlineExceeded: It came.
        DeviceUnavailable: The device rests, is lost, or failed under a block twice.
        ServerError: What else a block ended with.
    """
    waiting = deque(_Block(start, key, 0) for start, key in cut(spec, predict.size, block_bytes))
    sent: deque[tuple[_Block, Job]] = deque()
    try:
        while waiting or sent:
            if deadline_s != math.inf and time.monotonic() >= deadline_s:
                raise DeadlineExceeded("the time that the caller gave ran out before the gradient was computed")
            # Who has a block under way waits for that one and not for a slot, which another may keep for as long.
            slot = thread.pool.take(0.0 if sent else _wait_s(deadline_s)) if waiting else None
            if slot is not None:
                block = waiting.popleft()
                job = Job(block.key, slot, thread.pool)
                part = slice(block.start, block.start + block.key.elements)
                slot.fill(job.layout, predict[part], label[part], dout if spec.scalar_dout else dout[part])
                sent.append((block, job))
                thread.submit(job)
                continue
            if sent:
                outcome = sent[0][1].wait(_wait_s(deadline_s))
                if outcome is not None:
                    block, job = sent.popleft()
                    _receive(block, job, outcome, y, waiting)
                    continue
            thread.require_answer()
    finally:
        for _, job in sent:
            job.abandon()


def _receive(block: _Block, job: Job, outcome: Outcome, y: Array, waiting: deque[_Block]) -> None:
    try:
        if outcome is Outcome.COMPUTED:
            job.slot.read(job.layout, y[block.start : block.start + block.key.elements])
            return
    finally:
        job.release()
    if outcome is Outcome.FAILED:
        raise job.error or BackendError("a block failed and does not say why")
    if block.sendings + 1 == _SENDINGS:
        raise DeviceUnavailable("the device failed under this gradient and its repetition")
    waiting.appendleft(block._replace(sendings=block.sendings + 1))


def _wait_s(deadline_s: float) -> float:
    return _LOOK_S if deadline_s == math.inf else min(_LOOK_S, max(0.0, deadline_s - time.monotonic()))
