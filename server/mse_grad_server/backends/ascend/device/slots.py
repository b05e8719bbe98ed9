"""Slots of memory that blocks travel through, and the pool that lends them to threads.

All slots have the size of the largest block. Three streams run three blocks at a time, whatever their size, so a few
slots keep them busy. More slots for small blocks would only lengthen the queues in front of the streams.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field

import numpy as np

from mse_grad.tensor import Array
from mse_grad_server.backends.ascend.device.blocks import LaunchKey, Layout
from mse_grad_server.backends.ascend.device.canary import CANARY, require_gradient
from mse_grad_server.errors import ServerError

__all__ = ["Slot", "SlotPool"]


@dataclass(eq=False)
class Slot:
    """Pinned memory and device memory for one block, and the events of its stages.

    Attributes:
        number: Number of the slot.
        size_bytes: Bytes of the pinned memory, and of the device memory.
        host: Address of the pinned memory.
        device: Address of the device memory.
        copy_in_begins: Event: the copies to the device before this block's have ended.
        copied_in: Event: the operands are on the device.
        kernel_begins: Event: the operands are on the device and the kernels before this block's have ended; unused
            for a small block.
        computed: Event: the gradient is on the device.
        copy_out_begins: Event: the gradient is on the device and the copies to the host before this block's have
            ended; unused for a small block.
        copied_out: Event: the gradient is in pinned memory.
    """

    number: int
    size_bytes: int
    host: int
    device: int
    copy_in_begins: int
    copied_in: int
    kernel_begins: int
    computed: int
    copy_out_begins: int
    copied_out: int
    _staging: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Wraps the pinned memory in an array."""
        memory = (ctypes.c_uint8 * self.size_bytes).from_address(self.host)
        self._staging = np.ctypeslib.as_array(memory)

    def fill(self, layout: Layout, predict: Array, label: Array, dout: Array) -> None:
        """Copies the operands and the pattern of y into pinned memory; releases the GIL unless they are tiny."""
        staging, size_bytes = self._staging, layout.operand_bytes
        staging[:size_bytes] = predict.view(np.uint8)
        staging[layout.label : layout.label + size_bytes] = label.view(np.uint8)
        staging[layout.dout : layout.dout + layout.dout_bytes] = dout.view(np.uint8)
        staging[layout.y : layout.y + layout.canary_bytes] = CANARY

    def read(self, layout: Layout, y: Array) -> None:
        """Copies the gradient of a block out of pinned memory; releases the GIL unless it is tiny."""
        y.view(np.uint8)[:] = self._staging[layout.y : layout.y + layout.operand_bytes]

    def require_gradient(
        self, key: LaunchKey, layout: Layout, *, keeps_subnormals: bool, sample: int | None = None
    ) -> None:
        """Raises WrongGradient if a part of the block does not look computed (canary.py)."""
        require_gradient(key, layout, self._staging, keeps_subnormals=keeps_subnormals, sample=sample)

    def stain(self, layout: Layout, value: int) -> None:
        """Fills the pinned memory of the gradient with the byte `value`."""
        self._staging[layout.y : layout.y + layout.operand_bytes] = value


class SlotPool:
    """Lends slots to the threads that fill them. Thread-safe.

    The pool is open, or shut while the device is repaired, or it refuses. Once `all_returned` says that no thread holds
    a slot, the memory can be freed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free: list[Slot] = []
        self._held = 0
        self._waiting = 0
        self._is_open = False
        self._refusal: ServerError | None = None

    def open(self, slots: list[Slot]) -> None:
        """Lends `slots` from now on."""
        with self._changed:
            self._free = list(slots)
            self._is_open = True
            self._refusal = None
            self._changed.notify_all()

    def shut(self) -> None:
        """Lends no slot until `open`; callers wait."""
        with self._changed:
            self._is_open = False
            self._refusal = None
            self._free = []

    def refuse(self, refusal: ServerError) -> None:
        """Lends no slot until `open`; raises `refusal` to callers, and to those that wait already."""
        with self._changed:
            self._is_open = False
            self._refusal = refusal
            self._free = []
            self._changed.notify_all()

    def acquire(self, timeout_s: float) -> Slot | None:
        """Returns a slot, or None if none came free within the time; raises the error that `refuse` was given.

        Waiting callers take precedence over callers with a time-out of 0, so one long tensor cannot monopolize the
        device.
        """
        with self._changed:
            if timeout_s > 0:
                self._wait(timeout_s)
            if self._refusal is not None:
                raise self._refusal
            if len(self._free) <= (0 if timeout_s > 0 else self._waiting):
                return None
            self._held += 1
            return self._free.pop()

    def release(self, slot: Slot) -> None:
        """Takes back a slot, which is lent again unless its memory is about to be freed."""
        with self._changed:
            self._held -= 1
            if self._is_open:
                self._free.append(slot)
            self._changed.notify_all()

    def all_returned(self, timeout_s: float) -> bool:
        """Waits until no thread holds a slot; returns whether that came within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._held == 0, timeout_s)

    def _wait(self, timeout_s: float) -> None:
        self._waiting += 1
        try:
            self._changed.wait_for(lambda: self._refusal is not None or self._free, timeout_s)
        finally:
            self._waiting -= 1
