"""The memory that a block travels through, and who holds it.

All slots are of one size class, that of the largest block: three streams run three blocks at a time, whatever their
size, so a few slots keep them busy, and more of them for small blocks would only lengthen the queues in front.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field

import numpy as np

from mse_grad.tensor import Array
from mse_grad_server.backends.ascend.blocks import Layout
from mse_grad_server.errors import ServerError

__all__ = ["Slot", "SlotPool"]


@dataclass(eq=False)
class Slot:
    """Pinned staging and device memory for one block, and the events of its way.

    Attributes:
        number: Which slot.
        size_bytes: Of the pinned and of the device memory.
        host: Address of the pinned memory.
        device: Address of the device memory.
        copy_in_begins: Event: what was copied in before it is on the device.
        copied_in: Event: the operands are on the device.
        kernel_begins: Event: so are they, and the kernels before it have ended.
        computed: Event: the gradient is on the device.
        copy_out_begins: Event: so is it, and what was copied out before it is in pinned memory.
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
        """Makes the pinned memory an array."""
        memory = (ctypes.c_uint8 * self.size_bytes).from_address(self.host)
        self._staging = np.ctypeslib.as_array(memory)

    def fill(self, layout: Layout, predict: Array, label: Array, dout: Array) -> None:
        """Copies the operands of a block into pinned memory; releases the GIL where they are not tiny."""
        staging, size_bytes = self._staging, layout.operand_bytes
        staging[:size_bytes] = predict.view(np.uint8)
        staging[layout.label : layout.label + size_bytes] = label.view(np.uint8)
        staging[layout.dout : layout.dout + layout.dout_bytes] = dout.view(np.uint8)

    def read(self, layout: Layout, y: Array) -> None:
        """Copies the gradient of a block out of pinned memory; likewise."""
        y.view(np.uint8)[:] = self._staging[layout.y : layout.y + layout.operand_bytes]

    def stain(self, layout: Layout, value: int) -> None:
        """Fills the pinned memory of the gradient with the byte `value`."""
        self._staging[layout.y : layout.y + layout.operand_bytes] = value


class SlotPool:
    """Hands slots to the threads that fill them. Any number of threads.

    It is open, or shut while the device is repaired, or it refuses. `all_returned` tells when nobody holds a slot, so
    that memory can go without a thread writing to it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free: list[Slot] = []
        self._held = 0
        self._waiting = 0
        self._is_open = False
        self._refusal: ServerError | None = None

    def open(self, slots: list[Slot]) -> None:
        """Hands out `slots` from now on."""
        with self._changed:
            self._free = list(slots)
            self._is_open = True
            self._refusal = None
            self._changed.notify_all()

    def shut(self) -> None:
        """Hands out none until it is opened again; whoever asks waits."""
        with self._changed:
            self._is_open = False
            self._refusal = None
            self._free = []

    def refuse(self, refusal: ServerError) -> None:
        """Hands out none until it is opened again; whoever asks, or waits, gets `refusal`."""
        with self._changed:
            self._is_open = False
            self._refusal = refusal
            self._free = []
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Slot | None:
        """Returns a slot, or None where none came free within the time; raises what `refuse` was given.

        Who waits comes before who asks without waiting: a long tensor keeps nobody from the device.
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

    def give_back(self, slot: Slot) -> None:
        """Takes back a slot, which is handed out again unless its memory is about to go."""
        with self._changed:
            self._held -= 1
            if self._is_open:
                self._free.append(slot)
            self._changed.notify_all()

    def all_returned(self, timeout_s: float) -> bool:
        """Waits until nobody holds a slot; returns whether that came within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._held == 0, timeout_s)

    def _wait(self, timeout_s: float) -> None:
        self._waiting += 1
        try:
            self._changed.wait_for(lambda: self._refusal is not None or self._free, timeout_s)
        finally:
            self._waiting -= 1
