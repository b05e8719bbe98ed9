"""How a tensor is cut into blocks, and how a block lies in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Reduction
from mse_grad_server.backends.ascend.acl import DataType
from mse_grad_server.backends.base import GradientSpec

__all__ = ["ALIGNMENT_BYTES", "DTYPES", "LaunchKey", "Layout", "cut"]

DTYPES = (FLOAT32, FLOAT16, BFLOAT16)

ALIGNMENT_BYTES = 512
"""Where operands begin on the device: what the copies of a core want, by the programming guide of Ascend C."""

_DATA_TYPES = {FLOAT32.wire: DataType.FLOAT, FLOAT16.wire: DataType.FLOAT16, BFLOAT16.wire: DataType.BF16}
_ITEM_BYTES = {DataType.FLOAT: 4, DataType.FLOAT16: 2, DataType.BF16: 2}


class LaunchKey(NamedTuple):
    """What an executor is planned for. The operator is elementwise, so every shape runs as one dimension.

    Attributes:
        elements: Elements of predict.
        data_type: Element type.
        reduction: Reduction of the loss.
        part_of_numel: N of the whole tensor where the launch sees a part of it; None runs the plain operator.
        scalar_dout: Whether dout is a single element.
    """

    elements: int
    data_type: DataType
    reduction: Reduction
    part_of_numel: int | None
    scalar_dout: bool

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return _ITEM_BYTES[self.data_type]


class Layout(NamedTuple):
    """Where the operands of a block lie, in pinned and in device memory alike; predict begins at 0.

    Attributes:
        operand_bytes: Bytes of predict, of label and of y.
        dout_bytes: Bytes of dout.
        label: Offset of label, in bytes.
        dout: Offset of dout.
        y: Offset of y.
    """

    operand_bytes: int
    dout_bytes: int
    label: int
    dout: int
    y: int

    @classmethod
    def of(cls, key: LaunchKey) -> Layout:
        """Returns the layout of a block of kind `key`."""
        operand_bytes = key.elements * key.item_bytes
        dout_bytes = key.item_bytes if key.scalar_dout else operand_bytes
        step = _aligned(operand_bytes)
        return cls(operand_bytes, dout_bytes, step, 2 * step, 2 * step + _aligned(dout_bytes))

    @staticmethod
    def room_bytes(block_bytes: int) -> int:
        """Returns what four operands of up to `block_bytes` take."""
        return 4 * _aligned(block_bytes)

    @property
    def in_bytes(self) -> int:
        """Bytes from the begin of predict to the end of dout: what one copy brings to the device."""
        return self.dout + self.dout_bytes


def cut(spec: GradientSpec, elements: int, block_bytes: int) -> Iterator[tuple[int, LaunchKey]]:
    """Yields the blocks of a range of `elements`, each with its first element and its kind.

    All but the last are of one kind, so that a tensor of any size needs two plans at most.
    """
    data_type = _DATA_TYPES[spec.dtype.wire]
    most = block_bytes // spec.dtype.itemsize_bytes
    for start in range(0, elements, most):
        n = min(most, elements - start)
        # Only the mean knows N: a part of another gradient is a gradient of its own.
        part = spec.numel if spec.reduction is Reduction.MEAN and spec.numel != n else None
        yield start, LaunchKey(n, data_type, spec.reduction, part, spec.scalar_dout)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
