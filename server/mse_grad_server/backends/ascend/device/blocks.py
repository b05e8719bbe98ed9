"""Blocks of a tensor: how it is cut into them, and the layout of a block in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Reduction
from mse_grad_server.backends.ascend.acl.runtime import DataType
from mse_grad_server.backends.base import GradientSpec

__all__ = ["ALIGNMENT_BYTES", "DTYPES", "SMALL_BYTES", "LaunchKey", "Layout", "cut"]

DTYPES = (FLOAT32, FLOAT16, BFLOAT16)

ALIGNMENT_BYTES = 512
"""Alignment of operands on the device, at which a core copies fastest (programming guide of Ascend C)."""

SMALL_BYTES = 16 * 1024
"""The largest operand of a small block. A full tile of the kernel is a copy of at least this size.

The stages of a smaller block take less time than the events that would let them overlap.
"""

# 16 or 32 elements: enough that at least one gradient among them is not 0.
_CANARY_BYTES = 64

_DATA_TYPES = {FLOAT32.wire: DataType.FLOAT, FLOAT16.wire: DataType.FLOAT16, BFLOAT16.wire: DataType.BF16}
_ITEM_BYTES = {DataType.FLOAT: 4, DataType.FLOAT16: 2, DataType.BF16: 2}


class LaunchKey(NamedTuple):
    """A kind of launch, for which an executor is planned. The operator is elementwise, so every shape runs as rank 1.

    Attributes:
        elements: Elements of predict.
        data_type: Element type.
        reduction: Reduction of the loss.
        numel: N of the coefficient: the element count of the whole tensor, of which these elements may be a part.
        scalar_dout: Whether dout is a single element.
    """

    elements: int
    data_type: DataType
    reduction: Reduction
    numel: int
    scalar_dout: bool

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return _ITEM_BYTES[self.data_type]


class Layout(NamedTuple):
    """Layout of the operands of a block, the same in pinned and in device memory; predict begins at 0.

    Attributes:
        operand_bytes: Bytes of predict, of label and of y.
        dout_bytes: Bytes of dout.
        label: Offset of label, in bytes.
        dout: Offset of dout, in bytes.
        y: Offset of y, in bytes.
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
    def slot_bytes(block_bytes: int) -> int:
        """Returns the bytes of a slot that holds four operands of up to `block_bytes` each."""
        return 4 * _aligned(block_bytes)

    @property
    def is_small(self) -> bool:
        """Whether the block goes through its three stages in one stream."""
        return self.operand_bytes <= SMALL_BYTES

    @property
    def canary_bytes(self) -> int:
        """Bytes at the start of y that hold a pattern until the device has computed."""
        return min(_CANARY_BYTES, self.operand_bytes)

    @property
    def in_bytes(self) -> int:
        """Bytes that one copy brings to the device: from the start of predict to the end of the pattern in y."""
        return self.y + self.canary_bytes


def cut(spec: GradientSpec, elements: int, block_bytes: int) -> Iterator[tuple[int, LaunchKey]]:
    """Yields the blocks of `elements` elements, each as its first element and its kind.

    All but the last have one kind, so a tensor of any size needs at most two plans.
    """
    data_type = _DATA_TYPES[spec.dtype.wire]
    most = block_bytes // spec.dtype.itemsize_bytes
    for start in range(0, elements, most):
        n = min(most, elements - start)
        # Only the mean depends on N: a block of another reduction is a whole gradient.
        numel = spec.numel if spec.reduction is Reduction.MEAN else n
        yield start, LaunchKey(n, data_type, spec.reduction, numel, spec.scalar_dout)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
